"""Jobs whose replica no gpu of the cluster can hold: after a while they end, because nobody waits for ever."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sllm_tasks.endings import end_unowned
from sllm_tasks.errors import ErrorCode, UnavailableError
from sllm_tasks.jobs import JobError, JobStatus
from sllm_tasks.ledger.database import Database
from sllm_tasks.livestate import LiveState
from sllm_tasks.policy.queueing import Kind
from sllm_tasks.policy.view import WaitingJob

logger = logging.getLogger(__name__)

#: A worker that starts again, or a node, may be back with its gpus by then.
_PATIENCE_MS = 60_000


class Misfits:
    """What was deployed fitted once, so the cluster has shrunk since; called by the router's one thread."""

    def __init__(self, live: LiveState, ledger: Database) -> None:
        self._live = live
        self._ledger = ledger
        # Since when no gpu has been large enough, by kind.
        self._since_ms: dict[Kind, int] = {}

    def fits(self, job: WaitingJob) -> None:
        """Some node could hold a replica for it."""
        self._since_ms.pop(Kind.of(job), None)

    def end_pass(self, waiting: Iterable[WaitingJob]) -> None:
        """Forget kinds of which no job waits: those that come later have a while of their own."""
        if self._since_ms:
            kinds = {Kind.of(job) for job in waiting}
            self._since_ms = {kind: since_ms for kind, since_ms in self._since_ms.items() if kind in kinds}

    def ended(self, job: WaitingJob, reason: str, now_ms: int) -> bool:
        """End a job that has fitted nowhere for too long; False where it waits on, also while the ledger is away."""
        since_ms = self._since_ms.setdefault(Kind.of(job), now_ms)
        if now_ms - since_ms < _PATIENCE_MS:
            return False
        error = JobError(code=ErrorCode.OUT_OF_MEMORY, message=reason)
        logger.warning("job %s ends: %s", job.id, reason)
        try:
            return end_unowned(self._ledger, self._live, job.id, JobStatus.FAILED, error)
        except UnavailableError as unavailable:
            logger.warning("job %s waits on: %s", job.id, unavailable)
            return False
