"""Works off batches: reads their files, makes jobs of their lines a few at a time, writes their results.

Control runs it (entry point group `sllm.control`). All of its memory is the ledger: a line's jobs have places in their
batch's group that are given away once, so whoever goes on after a crash, or at the same time, makes none twice.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from sllm_tasks.admission import Admission
from sllm_tasks.config import Settings
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.endings import cancel_job
from sllm_tasks.errors import ConflictError, SllmError, UnavailableError
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobSpec
from sllm_tasks.ledger.batches import (
    MAX_PER_LINE,
    BatchCounts,
    active_batch_jobs,
    add_refusal,
    advance_batch,
    begin_batch,
    count_batch,
    note_counts,
    note_finalizing_batch,
    open_batches,
    refuse_batch,
)
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.files import read_lines
from sllm_tasks.ledger.jobs import NewJob
from sllm_tasks.ledger.states import BatchStatus
from sllm_tasks.ledger.tables import BatchRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.quotas import QueueQuotas, RulesMemory
from webapp.catalog import Catalog
from webapp.job_maker import JobMaker, Origin
from webapp.openai.batch_lines import RawLine, check_file, parse_line, raw_lines, wanted_of_line
from webapp.openai.batch_writer import write_results
from webapp.openai.errors import OpenAiError, described
from webapp.openai.translate import choices_of
from webapp.prompts import PromptBuilder

logger = logging.getLogger(__name__)

_PERIOD_S: Final = 1.0
#: Jobs of one batch that wait or run at once: enough to fill a replica's batch, few enough to leave room to others.
_MAX_ACTIVE_JOBS: Final = 32
#: Outputs are kept until the results are written, however long the last line takes.
_RESULT_TTL_S: Final = 3 * 86_400
#: A batch at which this code fails is left alone for so long.
_AFTER_A_BUG_S: Final = 60.0


class BatchRunner:
    """One step a second over all batches that have not ended."""

    def __init__(
        self, ledger: Database, admission: Admission, maker: JobMaker, live: LiveState, max_line_bytes: int
    ) -> None:
        self._ledger = ledger
        self._admission = admission
        self._maker = maker
        self._live = live
        self._max_line_bytes = max_line_bytes
        self._left_alone_until_s: dict[str, float] = {}

    def run(self, stopping: threading.Event) -> None:
        """Work until told to stop."""
        while not stopping.wait(_PERIOD_S):
            try:
                self.step()
            except UnavailableError as error:
                logger.warning("batches wait: %s", error)

    def step(self) -> None:
        """Bring every batch on a bit; raises UnavailableError."""
        with self._ledger.reading() as session:
            batches = open_batches(session)
        for batch in batches:
            if time.monotonic() < self._left_alone_until_s.get(batch.id, 0.0):
                continue
            try:
                self._bring_on(batch, datetime.now(UTC))
            except UnavailableError:
                raise
            except Exception:
                # The edge of a thread that works for everybody: one batch must not keep it from the others.
                logger.exception("batch %s is left alone for a while", batch.id)
                self._left_alone_until_s[batch.id] = time.monotonic() + _AFTER_A_BUG_S

    def _bring_on(self, batch: BatchRow, now: datetime) -> None:
        if batch.status is BatchStatus.VALIDATING:
            self._validate(batch, now)
            return
        with self._ledger.reading() as session:
            counts = count_batch(session, batch.id)
        self._tell(batch, counts)
        is_stopped = batch.status is BatchStatus.CANCELING or now >= batch.expires_at
        if is_stopped and counts.num_active_jobs:
            self._stop_jobs(batch)
        elif batch.status is BatchStatus.IN_PROGRESS:
            if batch.next_line < batch.num_requests and not is_stopped:
                self._hand_over(batch, counts, now)
            elif not counts.num_active_jobs:
                with self._ledger.transaction() as session:
                    note_finalizing_batch(session, batch.id, now=now)
        elif not counts.num_active_jobs:
            write_results(self._ledger, self._maker.prompts, batch, now)

    def _validate(self, batch: BatchRow, now: datetime) -> None:
        lines = raw_lines(read_lines(self._ledger, batch.input_file_id))
        checked = check_file(lines, batch.endpoint, self._max_line_bytes)
        with self._ledger.transaction() as session:
            if checked.problems:
                refuse_batch(session, batch.id, checked.problems, now=now)
            else:
                begin_batch(session, batch.id, num_requests=checked.num_requests, now=now)
        logger.info("batch %s has %d requests and %d problems", batch.id, checked.num_requests, len(checked.problems))

    def _tell(self, batch: BatchRow, counts: BatchCounts) -> None:
        if (counts.num_completed, counts.num_failed) != (batch.num_completed, batch.num_failed):
            with self._ledger.transaction() as session:
                note_counts(session, batch.id, counts)

    def _stop_jobs(self, batch: BatchRow) -> None:
        with self._ledger.reading() as session:
            job_ids = active_batch_jobs(session, batch.id)
        for job_id in job_ids:
            cancel_job(self._ledger, self._live, job_id)

    def _hand_over(self, batch: BatchRow, counts: BatchCounts, now: datetime) -> None:
        """Make jobs of the next lines, as many as there is room for."""
        room = _MAX_ACTIVE_JOBS - counts.num_active_jobs
        content = read_lines(self._ledger, batch.input_file_id, batch.next_offset)
        reached: RawLine | None = None
        try:
            for raw in raw_lines(content, batch.next_line, batch.next_offset):
                if room <= 0:
                    break
                room -= self._submit(batch, raw, now)
                reached = raw
        except SllmError as error:
            # Whatever raises here may work later: a ledger that is away, a quota, a model that is being deployed.
            logger.info("batch %s waits: %s", batch.id, error)
        if reached is not None:
            with self._ledger.transaction() as session:
                advance_batch(session, batch.id, next_line=reached.index + 1, next_offset=reached.end_offset)

    def _submit(self, batch: BatchRow, raw: RawLine, now: datetime) -> int:
        """Make the jobs of a line and return how many; one that can never be made is refused."""
        try:
            jobs = self._jobs_of(batch, raw, now)
        except SllmError as error:
            told = described(error)
            if error.retryable or told is None:
                raise
            self._refuse(batch, raw, told)
            return 0
        for new in jobs:
            self._admission.check_quota(batch.tenant)
            try:
                self._admission.submit(new)
            except ConflictError:
                # Its place is taken: it was submitted before a crash, or is by another control.
                continue
        return len(jobs)

    def _jobs_of(self, batch: BatchRow, raw: RawLine, now: datetime) -> list[NewJob]:
        wanted = wanted_of_line(parse_line(raw.content))
        origin = Origin(tenant=batch.tenant, request_id=new_id("req"))
        made = tuple(self._maker.make(job, origin, fills_context=wanted.fills_context) for job in wanted.jobs)
        left_ms = int((batch.expires_at - now).total_seconds() * 1000)
        of_batch = tuple(replace(new, spec=_in_batch(new.spec, left_ms), result_ttl_s=_RESULT_TTL_S) for new in made)
        return choices_of(of_batch, wanted, batch.id, raw.index * MAX_PER_LINE)

    def _refuse(self, batch: BatchRow, raw: RawLine, told: OpenAiError) -> None:
        with self._ledger.transaction() as session:
            add_refusal(session, batch.id, raw.index, status=told.status, body=told.body)


def _in_batch(spec: JobSpec, left_ms: int) -> JobSpec:
    """Put a job into the class that takes what others leave, and let it end with its batch."""
    end_ms = spec.created_ms + max(0, left_ms)
    deadline_ms = end_ms if spec.deadline_ms is None else min(spec.deadline_ms, end_ms)
    return replace(spec, job_class="batch", deadline_ms=deadline_ms)


def make_batch_runner(settings: Settings, ledger: Database, live: LiveState, dispatcher: Dispatcher) -> BatchRunner:
    """Make the one of this process."""
    quotas = QueueQuotas(RulesMemory(ledger), settings.max_queued_jobs)
    admission = Admission(ledger, live, dispatcher, quotas, fast_path=settings.fast_path)
    maker = JobMaker(Catalog(ledger), PromptBuilder(ledger), live, settings.max_attempts, settings.result_ttl_s)
    return BatchRunner(ledger, admission, maker, live, settings.max_body_bytes)
