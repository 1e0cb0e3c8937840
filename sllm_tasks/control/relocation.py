"""Empties gpus that take no more work: what decodes there moves, what does not yet waits for another place.

A job that decodes and has nowhere to go ends where it is.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter

from sllm_tasks.cluster import Gpu, GpuId, GpuState
from sllm_tasks.drains import follow_drains
from sllm_tasks.errors import ConflictError, NotFoundError, UnavailableError
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.database import Database
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.router import PlacedJob
from sllm_tasks.migration.states import MigrationReason, MigrationState
from sllm_tasks.mover import Mover

logger = logging.getLogger(__name__)

_PERIOD_S = 0.2
#: Of one replica: jobs that arrive together share what their target reads, and each has the more to read the longer it
#: takes. The one number that was tried (docs/migration.md).
_MAX_AT_ONCE = 2
_NO_TOKEN_YET = frozenset({JobStatus.QUEUED, JobStatus.STARTING})


class Relocation:
    """Runs in control; whatever it starts is decided in the live state, so two of them do no harm."""

    def __init__(self, ledger: Database, live: LiveState, mover: Mover) -> None:
        self._ledger = ledger
        self._live = live
        self._mover = mover

    def run(self, stopping: threading.Event) -> None:
        """Look at draining gpus, and at migrations whose time is over, until told to stop."""
        while not stopping.wait(_PERIOD_S):
            try:
                self.step()
            except UnavailableError as error:
                logger.warning("nothing is moved: %s", error)

    def step(self) -> None:
        """Look once; raises UnavailableError."""
        try:
            follow_drains(self._ledger, self._live)
        except UnavailableError as error:
            logger.warning("what is drained stays so: %s", error)
        drains = self._live.drains.look()
        for gpu in self._live.fleet.gpus():
            if gpu.state is GpuState.DRAINING:
                self._empty(gpu, MigrationReason.DRAIN if drains.covers(gpu.id) else MigrationReason.SHUTDOWN)
        for migration_id in self._live.migrations.overdue(self._live.now_ms()):
            why = "it took too long"
            if self._live.migrations.end(migration_id, MigrationState.FAILED, why, only_if_due=True):
                logger.warning("migration %s given up: %s", migration_id, why)

    def _empty(self, gpu: Gpu, reason: MigrationReason) -> None:
        leaders = self._leaders_on(gpu)
        placed = self._live.router.placed_jobs(sorted(set(leaders.values())))
        jobs = [job for job in placed if job.replica_id in leaders]
        self._move_some(jobs, reason)
        # A worker that leaves hands back by itself what it does not get done in its time.
        if reason is MigrationReason.DRAIN:
            self._hand_back(jobs, leaders)

    def _leaders_on(self, gpu: Gpu) -> dict[str, GpuId]:
        """Which gpu leads each replica that has memory of this one."""
        orders = self._live.fleet.replicas(self._live.fleet.replicas_on(gpu.id))
        return {order.replica.id: order.replica.leader for order in orders if order is not None}

    def _hand_back(self, jobs: list[PlacedJob], leaders: dict[str, GpuId]) -> None:
        views = self._live.jobs.views([job.job_id for job in jobs])
        for job, view in zip(jobs, views, strict=True):
            # It may have found another place since.
            if view is None or view.replica_id != job.replica_id:
                continue
            if view.status in _NO_TOKEN_YET and not view.migration_id:
                self._live.drains.hand_back(job.job_id, leaders[job.replica_id])

    def _move_some(self, jobs: list[PlacedJob], reason: MigrationReason) -> None:
        """Begin with the jobs that have the most tokens before them: others may end first."""
        num_moving = Counter(job.replica_id for job in jobs if job.migration_id)
        for job in sorted(jobs, key=lambda job: job.num_tokens - job.max_tokens):
            may_move = job.is_running and not job.migration_id and num_moving[job.replica_id] < _MAX_AT_ONCE
            if may_move and self._move(job.job_id, reason):
                num_moving[job.replica_id] += 1

    def _move(self, job_id: str, reason: MigrationReason) -> bool:
        try:
            self._mover.move(job_id, reason)
        except (ConflictError, NotFoundError) as error:
            logger.debug("%s", error)
            return False
        return True
