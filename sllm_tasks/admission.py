"""Accept a job: its row first, then its live record, then the message that starts it.

The job is accepted once its row is committed. Whatever fails after that is made good by the sweeper, so it is no
error of the request.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy.orm import Session

from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.errors import ConflictError, UnavailableError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.group_commit import GroupCommit
from sllm_tasks.ledger.jobs import NewJob, count_active, insert_job
from sllm_tasks.ledger.tables import JobRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.quotas import QueueQuotas
from sllm_tasks.repeats import KeyedRequest, NamedRequest, RepeatableRequest
from sllm_tasks.timeline import mark

logger = logging.getLogger(__name__)

#: How long it is believed that the live state has memory, or has none.
_MEMORY_BELIEF_S: Final = 2.0
#: How long the live state is left alone after it did not answer; the sweeper publishes what comes meanwhile.
_DOWN_BELIEF_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A job that is in the ledger."""

    job_id: str
    #: As it was written; None when an earlier request had already brought it there.
    row: JobRow | None

    @property
    def is_new(self) -> bool:
        """Whether this request brought it into the ledger."""
        return self.row is not None


class Admission:
    """Safe to use from many threads."""

    def __init__(
        self, ledger: Database, live: LiveState, dispatcher: Dispatcher, quotas: QueueQuotas, *, fast_path: bool = True
    ) -> None:
        self._ledger = ledger
        self._quotas = quotas
        self._commits = GroupCommit(ledger)
        self._live = live
        self._dispatcher = dispatcher
        self._fast_path = fast_path
        self._breaker = _Breaker(live)

    def find(self, request: RepeatableRequest) -> Accepted | None:
        """What an earlier sending of the request has brought into the ledger, None if there was none.

        Raises:
            UnavailableError: The ledger is out.
            ConflictError: The id that the client chose is taken by another job.
            IdempotencyMismatchError: The key is taken by another request.

        """
        with self._ledger.reading() as session:
            first = request.find(session, datetime.now(UTC))
        return None if first is None else Accepted(job_id=first, row=None)

    def check_quota(self, tenant: str) -> None:
        """Raise QuotaExceededError while as many jobs of a tenant wait as may.

        Requests that come together are counted together, so a few more may slip in than the limit says.
        """
        self._quotas.check(tenant, self._num_waiting(tenant))

    def submit(self, new: NewJob, request: RepeatableRequest | None = None) -> Accepted:
        """Accept a job and start it if a gpu is at hand.

        Raises:
            UnavailableError: The ledger is out, or the live state has no memory left; nothing was accepted.
            ConflictError: The id that the client chose is taken by another job.
            IdempotencyMismatchError: The key is taken by another request.

        """
        self._breaker.check_memory()
        accepted = self._commits.run(lambda session: _write(session, new, request))
        mark("job.committed", accepted.job_id)
        if accepted.is_new and not self._breaker.is_down:
            try:
                self._start(new)
            except UnavailableError as error:
                self._breaker.note_down()
                logger.warning("%s is accepted and waits for the sweeper: %s", new.spec.job_id, error)
        return accepted

    def _num_waiting(self, tenant: str) -> int:
        if not self._breaker.is_down:
            try:
                return self._live.queues.num_waiting_of(tenant)
            except UnavailableError:
                self._breaker.note_down()
        # Nothing starts without the live state, so nearly all that has not ended waits.
        with self._ledger.reading() as session:
            return count_active(session, tenant)

    def _start(self, new: NewJob) -> None:
        placed = self._live.jobs.create(new.spec, fast_path=self._fast_path, kick=True)
        if placed.gpu is not None:
            self._dispatcher.run_job(placed.gpu, new.spec.job_id, 1)
            mark("job.sent", new.spec.job_id)
        elif placed.kicks:
            self._dispatcher.send_kick()


def _write(session: Session, new: NewJob, request: RepeatableRequest | None) -> Accepted:
    job_id, now = new.spec.job_id, datetime.now(UTC)
    first = request.claim(session, job_id, now) if isinstance(request, KeyedRequest) else None
    if first is not None:
        return Accepted(job_id=first, row=None)
    try:
        return Accepted(job_id=job_id, row=insert_job(session, new))
    except ConflictError:
        first = request.find(session, now) if isinstance(request, NamedRequest) else None
        if first is None:
            raise
        return Accepted(job_id=first, row=None)


class _Breaker:
    """Remembers for a moment that the live state is full or away, so that not every request has to find out."""

    def __init__(self, live: LiveState) -> None:
        self._live = live
        # Guards what is below; held only to read and write them, never while the live state is asked.
        self._lock = threading.Lock()
        self._is_full = False
        self._probe_due_s = 0.0
        self._down_until_s = 0.0

    @property
    def is_down(self) -> bool:
        """Whether the live state did not answer a moment ago."""
        with self._lock:
            return time.monotonic() < self._down_until_s

    def note_down(self) -> None:
        """Remember that it did not answer."""
        with self._lock:
            self._down_until_s = time.monotonic() + _DOWN_BELIEF_S

    def check_memory(self) -> None:
        """Raise UnavailableError while the live state refuses writes; one caller in two seconds asks it."""
        with self._lock:
            is_due = time.monotonic() >= self._probe_due_s
            if is_due:
                self._probe_due_s = time.monotonic() + _MEMORY_BELIEF_S
        if is_due:
            self._probe()
        if self._is_full:
            raise UnavailableError("the live state has no memory left for more jobs")

    def _probe(self) -> None:
        try:
            is_full = self._live.memory_is_full()
        except UnavailableError:
            # Away is not full: what is accepted now is published when it is back.
            is_full = False
            self.note_down()
        with self._lock:
            self._is_full = is_full
