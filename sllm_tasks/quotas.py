"""How many jobs of a tenant may wait, so that a flood is refused while its sender can still be told."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from sllm_tasks.errors import ErrorCode, SllmError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.queues import TenantRules, rules_of

#: A changed limit holds after at most this time.
_MEMORY_S: Final = 5.0
_MAX_REMEMBERED: Final = 10_000


class QuotaExceededError(SllmError):
    """As many jobs of the tenant wait as may."""

    code = ErrorCode.QUOTA_EXCEEDED
    retryable = True


class RulesMemory:
    """What holds for tenants; safe to use from many threads.

    An entry is replaced whole, and two threads that read the same one do no harm.
    """

    def __init__(self, ledger: Database) -> None:
        self._ledger = ledger
        self._known: dict[str, tuple[float, TenantRules]] = {}

    def of(self, tenant: str) -> TenantRules:
        """What holds for a tenant, as it was within the last seconds; raises UnavailableError."""
        known = self._known.get(tenant)
        if known is not None and time.monotonic() - known[0] < _MEMORY_S:
            return known[1]
        with self._ledger.reading() as session:
            rules = rules_of(session, tenant)
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[tenant] = (time.monotonic(), rules)
        return rules


@dataclass(frozen=True, slots=True)
class QueueQuotas:
    """Tells how many jobs may wait."""

    rules: RulesMemory
    #: Of tenants for which nothing else holds.
    max_queued_jobs: int

    def check(self, tenant: str, num_waiting: int) -> None:
        """Raise QuotaExceededError if no more jobs of a tenant may wait."""
        own = self.rules.of(tenant).max_queued_jobs
        limit = self.max_queued_jobs if own is None else own
        if num_waiting >= limit:
            raise QuotaExceededError(f"{num_waiting} of your jobs wait, and no more than {limit} may; try again later")
