"""Decisions that move running jobs: their gpus are held for the job that waits, then the running ones are asked to go.

Memory is given away when it is free and not before. Until then the job waits like any other, is decided for in every
pass, and takes whatever is better by then; so nothing has to be undone when a move fails, a moved job ends early or a
router dies. The hold goes with the job's wait, and is over after a time in any case.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from sllm_tasks.cluster import Hold
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.router import Applied
from sllm_tasks.migration.states import MigrationReason
from sllm_tasks.mover import Mover
from sllm_tasks.policy.decision import Decision
from sllm_tasks.policy.view import WaitingJob

logger = logging.getLogger(__name__)

#: Moves that came to nothing are not tried again for the same job before this.
_SHORTEST_HOLD_S = 30.0
#: What takes so many times as long as it should has come to nothing.
_PATIENCE = 2.0


class Moving:
    """Called by the router's one thread."""

    def __init__(self, live: LiveState, epoch: Callable[[], int]) -> None:
        self._live = live
        self._mover = Mover(live)
        self._epoch = epoch

    def begin(self, job: WaitingJob, decision: Decision, now_ms: int) -> Hold | Applied:
        """Begin to empty gpus for a job: what is held for it, or why that cannot be."""
        choice, start = decision.choice, decision.start
        life_s = max(_SHORTEST_HOLD_S, _PATIENCE * start.high_s if start else 0.0)
        hold = Hold(gpus=choice.gpus, until_ms=now_ms + int(life_s * 1000))
        left = sorted({move.from_replica for move in choice.moves} | set(choice.victims))
        applied = self._live.router.hold(
            epoch=self._epoch(), job_id=job.id, attempt=job.attempt, hold=hold, replica_ids=left
        )
        if applied is not Applied.OK:
            return applied
        reason = MigrationReason.LOCALITY if len(choice.gpus) == 1 else MigrationReason.DEFRAGMENTATION
        num_begun = self._mover.carry_out(choice.moves, reason)
        logger.info("job %s: %d of %d jobs leave %s for it", job.id, num_begun, len(choice.moves), choice.gpus[0])
        return hold if num_begun else Applied.BUSY
