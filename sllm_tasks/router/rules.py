"""What the ledger says about queues: which are paused, how tenants share, how much they may have at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.queues import TenantRules, paused_queues, tenant_rules
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.queues import Gates, WaitingRoom

logger = logging.getLogger(__name__)

#: They are read from the ledger at most this often, unless the live state says otherwise.
_LIFE_S = 1.0


class QueueRules:
    """Remembered for a second, and told to the live state, where the fast path looks."""

    def __init__(self, live: LiveState, ledger: Database, *, max_running_jobs: int | None) -> None:
        self._live = live
        self._ledger = ledger
        self._max_running_jobs = max_running_jobs
        self._rules: dict[str, TenantRules] = {}
        self._read_s: float | None = None
        self.gates = Gates()

    def follow(self, room: WaitingRoom) -> None:
        """Bring this up to date, and the gates; raises UnavailableError while nothing was ever read."""
        if self._read_s is None:
            self._read()
        elif room.gates != self.gates or time.monotonic() - self._read_s > _LIFE_S:
            try:
                # After the look at the gates: whoever moves one has committed it before.
                self._read()
            except UnavailableError as error:
                logger.warning("queues are as they were: %s", error)
                return
        if room.gates != self.gates:
            self._live.queues.set_gates(self.gates, room.version)

    def weights(self) -> Mapping[str, float]:
        """Of the tenants that do not weigh 1."""
        return {tenant: rules.weight for tenant, rules in self._rules.items()}

    def may_start(self, running: Mapping[str, int], tenants: frozenset[str]) -> Mapping[str, int]:
        """How many jobs each of some tenants may start, of those that have a limit."""
        limits = {tenant: self._limit_of(tenant) for tenant in tenants}
        return {tenant: limit - running.get(tenant, 0) for tenant, limit in limits.items() if limit is not None}

    def _limit_of(self, tenant: str) -> int | None:
        own = self._rules.get(tenant, TenantRules()).max_running_jobs
        return self._max_running_jobs if own is None else own

    def _read(self) -> None:
        with self._ledger.reading() as session:
            self._rules = tenant_rules(session)
            paused = frozenset(row.name for row in paused_queues(session))
        limited = {tenant for tenant, rules in self._rules.items() if rules.max_running_jobs is not None}
        self.gates = Gates(paused=paused, limited=frozenset(limited), limits_all=self._max_running_jobs is not None)
        self._read_s = time.monotonic()
