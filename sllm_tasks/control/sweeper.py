"""Puts right what faults left behind: lost messages, dead workers, a lost live state, deadlines, poison."""

from __future__ import annotations

import logging
import threading

from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.endings import end_unowned
from sllm_tasks.errors import ErrorCode, UnavailableError
from sllm_tasks.jobs import JobError, JobStatus
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import from_ms, job_spec, to_ms
from sllm_tasks.ledger.inventory import list_models
from sllm_tasks.ledger.jobs import ActiveJob, active_jobs, bump_attempt, get_job
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.jobs import LEASE_MS, LiveJob

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
#: A server that was away for no longer has let no lease run out: workers renew them every second.
_PAUSE_MS = LEASE_MS // 2
#: A job younger than this may still be between its commit and its live record.
_YOUNG_MS = 2_000
_PAGE = 500
#: A worker that lives but does not claim after so many messages is given up for this job.
_MAX_RESENDS = 5


class Sweeper:
    """Runs once a second; every step is a compare-and-set, so two sweepers do no harm."""

    def __init__(self, ledger: Database, live: LiveState, dispatcher: Dispatcher, *, max_attempts: int) -> None:
        self._ledger = ledger
        self._live = live
        self._dispatcher = dispatcher
        self._max_attempts = max_attempts
        # Server times: when it last took a write of ours, and the first of those between which there was no pause.
        self._seen_ms = 0
        self._steady_since_ms = 0
        self._known_models: frozenset[str] = frozenset()

    def run(self, stopping: threading.Event) -> None:
        """Sweep until told to stop."""
        while not stopping.wait(_PERIOD_S):
            try:
                self.sweep()
            except UnavailableError as error:
                logger.warning("sweep given up: %s", error)

    def sweep(self) -> None:
        """Look at everything once; raises UnavailableError."""
        self._look_at_the_server()
        # After an outage the workers get one lease's time to renew what ran out while nobody could.
        if self._seen_ms - self._steady_since_ms >= LEASE_MS:
            self._reap_gpus()
            self._sweep_leases()
        self._sweep_ledger()
        if self._live.jobs.num_waiting():
            self._dispatcher.route()

    def _look_at_the_server(self) -> None:
        """Notice whether it was away since the last look, by its own clock: its silence is not the workers'.

        Writes, because a server without memory answers, and takes no heartbeats.
        """
        now_ms = self._live.written_at_ms()
        if not 0 <= now_ms - self._seen_ms <= _PAUSE_MS:
            self._steady_since_ms = now_ms
        self._seen_ms = now_ms

    def _reap_gpus(self) -> None:
        for gpu in self._live.fleet.silent_gpus(self._seen_ms):
            num_jobs = self._live.fleet.reap_gpu(gpu, expires_ms=self._seen_ms + _PAUSE_MS)
            if num_jobs >= 0:
                logger.warning("gpu %s is silent: its worker counts as dead, %d jobs wait again", gpu, num_jobs)
                self._dispatcher.drop_queue(gpu)

    def _sweep_leases(self) -> None:
        for job_id in self._live.jobs.due(self._seen_ms):
            due = self._live.jobs.sweep(job_id, _MAX_RESENDS, expires_ms=self._seen_ms + _PAUSE_MS)
            if due.resend_to is not None:
                logger.info("job %s was not claimed; its message is sent again", job_id)
                self._dispatcher.run_job(due.resend_to, job_id, due.attempt)
            elif due.requeued:
                logger.warning("job %s lost its worker (%d so far)", job_id, due.losses)

    def _sweep_ledger(self) -> None:
        """Hold every job that has not ended against the live state."""
        now_ms = self._live.now_ms()
        with self._ledger.reading() as session:
            self._known_models = frozenset(row.name for row in list_models(session))
        after = ""
        while True:
            with self._ledger.reading() as session:
                page = active_jobs(
                    session,
                    older_than=from_ms(now_ms - _YOUNG_MS),
                    overdue_at=from_ms(now_ms),
                    limit=_PAGE,
                    after_id=after,
                )
            views = self._live.jobs.views([job.job_id for job in page])
            for job, view in zip(page, views, strict=True):
                self._look_at(job, view, now_ms)
            if len(page) < _PAGE:
                return
            self._look_at_the_server()
            after = page[-1].job_id

    def _look_at(self, job: ActiveJob, view: LiveJob | None, now_ms: int) -> None:
        expired = job.deadline_at is not None and to_ms(job.deadline_at) < now_ms
        unowned = view is None or (view.owner == "" and view.phase != "finishing")
        if (unowned and job.status is JobStatus.CANCELING) or (unowned and view is not None and view.cancel):
            self._end(job, JobStatus.CANCELED, None)
        elif job.status is JobStatus.CANCELING and view is not None and not view.cancel and not view.ended:
            # The live state, or whoever passed the wish on, was lost in between.
            self._live.jobs.cancel(job.job_id, "user")
        elif unowned and expired:
            began = view.num_tokens > 0 if view is not None else job.attempt > 1
            status = JobStatus.CANCELED if began else JobStatus.EXPIRED
            message = f"the deadline passed before the job {'could go on' if began else 'had a token'}"
            self._end(job, status, JobError(code=ErrorCode.DEADLINE_EXCEEDED, message=message))
        elif view is not None and unowned and view.losses >= self._max_attempts:
            message = f"{view.losses} workers died while they ran this job"
            self._end(job, JobStatus.FAILED, JobError(code=ErrorCode.POISON, message=message))
        elif unowned and job.model not in self._known_models:
            message = f"the model {job.model} was deleted before the job could run"
            self._end(job, JobStatus.FAILED, JobError(code=ErrorCode.MODEL_NOT_FOUND, message=message))
        elif view is None or view.ended:
            self._publish_again(job, has_ended=view is not None)

    def _end(self, job: ActiveJob, status: JobStatus, error: JobError | None) -> None:
        if end_unowned(self._ledger, self._live, job.job_id, status, error):
            logger.info("job %s ended as %s%s", job.job_id, status, f": {error.message}" if error else "")

    def _publish_again(self, job: ActiveJob, *, has_ended: bool) -> None:
        """The live state knows nothing of it: lost, or its web process died between commit and live record.

        Or it knows of an end that the ledger, put back to an older state, does not know of. If the ledger has come to
        know of it by now, nothing is done: its readers still want the end's events.
        """
        with self._ledger.transaction() as session:
            attempt = bump_attempt(session, job.job_id, job.attempt, worker_lost=False)
            row = get_job(session, job.job_id) if attempt is not None else None
        if attempt is None or row is None:
            return
        if has_ended:
            self._live.jobs.forget(job.job_id)
        logger.warning("job %s has no live record; attempt %d begins", job.job_id, attempt)
        self._live.count("sweeper_republished")
        # The router gives it a place, which knows whose turn it is, and looks at who else is there.
        self._live.jobs.create(job_spec(row), attempt=attempt, losses=job.worker_losses, again=True, fast_path=False)
