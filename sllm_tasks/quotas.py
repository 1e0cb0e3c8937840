"""How many jobs of a tenant may wait, so that a flood is refused while its sender can still be told."""

from __future__ import annotations

import time
from typing import Final

from sllm_tasks.errors import ErrorCode, SllmError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.queues import rules_of

#: A changed limit holds after at most this time.
_MEMORY_S: Final = 5.0
_MAX_REMEMBERED: Final = 10_000


class QuotaExceededError(SllmError):
    """As many jobs of the tenant wait as may."""

    code = ErrorCode.QUOTA_EXCEEDED
    retryable = True


class QueueQuotas:
    """Safe to use from many threads: an entry is replaced whole, and two that read a limit twice do no harm."""

    def __init__(self, ledger: Database, max_queued_jobs: int) -> None:
        self._ledger = ledger
        self._max_queued_jobs = max_queued_jobs
        self._known: dict[str, tuple[float, int]] = {}

    def check(self, tenant: str, num_waiting: int) -> None:
        """Raise QuotaExceededError if no more jobs of a tenant may wait."""
        limit = self._limit_of(tenant)
        if num_waiting >= limit:
            raise QuotaExceededError(f"{num_waiting} of your jobs wait, and no more than {limit} may; try again later")

    def _limit_of(self, tenant: str) -> int:
        known = self._known.get(tenant)
        if known is not None and time.monotonic() - known[0] < _MEMORY_S:
            return known[1]
        with self._ledger.reading() as session:
            own = rules_of(session, tenant).max_queued_jobs
        limit = self._max_queued_jobs if own is None else own
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[tenant] = (time.monotonic(), limit)
        return limit
