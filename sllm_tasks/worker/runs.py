"""The jobs that a worker holds: one record per claim, shared by the task body, the engine thread and the heartbeat."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import FinishReason, JobError, JobStatus, Outcome, TokenRecord, Usage
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.migration.records import PrefixHash


class Stop(StrEnum):
    """Why a worker should let go of a job before its end."""

    #: Its user or its deadline wants it; it ends as canceled or expired.
    CANCEL = "cancel"
    #: This worker leaves; another one goes on.
    HAND_OVER = "hand_over"
    #: It moves to another worker while it runs; until that owns it, it may have to go on here.
    MOVE = "move"
    #: It is somebody else's already, or will be: write nothing more.
    LOST = "lost"


@dataclass(slots=True)
class Acknowledged:
    """What the target of a job's migration is known to have, with the hash of it."""

    migration_id: str
    prefix: PrefixHash
    num_tokens: int = 0


class JobRun:
    """A claimed job on this worker.

    `stop` may be set by any thread; the first reason stays, but for LOST, which outdoes all others, and for MOVE,
    behind which others wait. `tokens` belongs to the engine thread while the job decodes; `outcome` is set once, before
    `finished` is.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.tokens: list[TokenRecord] = []
        #: Tokens from here on are not yet written to the live state.
        self.num_written = 0
        self.outcome: Outcome | None = None
        self.finished = threading.Event()
        self._lock = threading.Lock()
        self._stop: Stop | None = None
        # What is to happen if it does not move after all.
        self._stop_if_it_stays: Stop | None = None
        #: Set before its stop is MOVE.
        self.acknowledged: Acknowledged | None = None
        #: Set by the engine thread: no token follows, and it has nothing of it any more.
        self.has_left_engine = False
        #: Why it is stopped, when not its user but its deadline wants that.
        self.cancel_error: JobError | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.claim.spec.job_id

    @property
    def stop(self) -> Stop | None:
        """Why this worker should let go, None while it should go on."""
        return self._stop

    def request_stop(self, stop: Stop, error: JobError | None = None) -> bool:
        """Ask for an early end; returns whether that is news."""
        with self._lock:
            if self._stop is stop or self._stop is Stop.LOST:
                return False
            if self._stop is Stop.MOVE and stop is not Stop.LOST:
                self._stop_if_it_stays = self._stop_if_it_stays or stop
            elif self._stop and stop is not Stop.LOST:
                return False
            else:
                self._stop = stop
            self.cancel_error = self.cancel_error or error
            return True

    def wait_until_left(self) -> None:
        """Wait until the engine has nothing more of it and its tokens are written, or are nobody's business."""
        while True:
            self.finished.wait()
            # Cleared before the look: it may have been set for a time before `stay`.
            self.finished.clear()
            if self.outcome is not None or self.has_left_engine or self._stop is Stop.LOST:
                self.finished.set()
                return

    def stay(self) -> None:
        """It does not move after all: go on here, unless something else was asked for meanwhile."""
        with self._lock:
            if self._stop is Stop.MOVE:
                self._stop, self._stop_if_it_stays = self._stop_if_it_stays, None
            self.has_left_engine = False
            self.finished.clear()

    def succeed(self, reason: FinishReason) -> None:
        """The job reached its end."""
        self._end(JobStatus.SUCCEEDED, reason, None)

    def cancel(self) -> None:
        """The job was stopped; its partial text is kept. A deadline before the first token is no cancellation."""
        if self.cancel_error is not None and not self.tokens:
            self._end(JobStatus.EXPIRED, None, self.cancel_error)
        else:
            self._end(JobStatus.CANCELED, FinishReason.CANCELED, self.cancel_error)

    def fail(self, code: ErrorCode, message: str) -> None:
        """The job cannot go on."""
        self._end(JobStatus.FAILED, None, JobError(code=code, message=message))

    def _end(self, status: JobStatus, reason: FinishReason | None, error: JobError | None) -> None:
        spec = self.claim.spec
        self.outcome = Outcome(
            status=status,
            text="".join(token.text for token in self.tokens),
            finish_reason=reason,
            usage=Usage(prompt_tokens=len(spec.prompt_ids), completion_tokens=len(self.tokens)),
            error=error,
            logprobs=tuple(self.tokens) if spec.params.logprobs is not None else (),
        )


class RunTable:
    """Every job this worker holds, by id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, JobRun] = {}
        self._empty = threading.Condition(self._lock)

    @contextmanager
    def holding(self, run: JobRun) -> Iterator[None]:
        """Keep the job's lease alive inside the block."""
        with self._lock:
            self._runs[run.job_id] = run
        try:
            yield
        finally:
            with self._lock:
                if self._runs.get(run.job_id) is run:
                    del self._runs[run.job_id]
                self._empty.notify_all()

    def all(self) -> list[JobRun]:
        """A copy of the table."""
        with self._lock:
            return list(self._runs.values())

    def get(self, job_id: str) -> JobRun | None:
        """One job."""
        with self._lock:
            return self._runs.get(job_id)

    def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait for the last job to leave; False after the time-out."""
        with self._lock:
            return self._empty.wait_for(lambda: not self._runs, timeout_s)
