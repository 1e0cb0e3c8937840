"""Writes the files of a batch's results, and ends the batch in the transaction in which they appear."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from sllm_tasks.ids import new_id
from sllm_tasks.ledger.batches import BatchResults, end_batch, jobs_of_lines, refusals
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.files import FileWriter, NewFile, read_lines
from sllm_tasks.ledger.states import BatchStatus
from sllm_tasks.ledger.tables import BatchRow
from sllm_tasks.limits import MAX_LIFE_S
from webapp.openai.batch_lines import raw_lines
from webapp.openai.batch_results import DoneLine, LineResult, result_of
from webapp.openai.token_texts import TokenTexts
from webapp.prompts import PromptBuilder

logger = logging.getLogger(__name__)

#: Lines whose jobs are read at once.
_PAGE: Final = 200


def write_results(ledger: Database, prompts: PromptBuilder, batch: BatchRow, now: datetime) -> None:
    """End a batch none of whose jobs is active; what a crash leaves half written is never seen, and purged."""
    status = _final_status(batch)
    output, errors = _Sink(ledger, batch, "output", now), _Sink(ledger, batch, "error", now)
    for result in _results(ledger, prompts, batch, status):
        (output if result.is_answer else errors).write(result)
    output.flush()
    errors.flush()
    results = BatchResults(
        output_file_id=output.file_id,
        error_file_id=errors.file_id,
        num_completed=output.num_lines,
        num_failed=errors.num_lines,
    )
    with ledger.transaction() as session:
        if end_batch(session, batch.id, status, results, now=now):
            for sink in (output, errors):
                if sink.writer is not None:
                    sink.writer.complete(session, now)
    logger.info("batch %s is %s: %d answers, %d errors", batch.id, status, output.num_lines, errors.num_lines)


def _final_status(batch: BatchRow) -> BatchStatus:
    if batch.status is BatchStatus.CANCELING:
        return BatchStatus.CANCELED
    if batch.finalizing_at is not None and batch.finalizing_at >= batch.expires_at:
        return BatchStatus.EXPIRED
    return BatchStatus.COMPLETED


def _results(ledger: Database, prompts: PromptBuilder, batch: BatchRow, status: BatchStatus) -> Iterator[LineResult]:
    texts: dict[str, TokenTexts] = {}

    def texts_of(checkpoint: str) -> TokenTexts:
        return texts.setdefault(checkpoint, TokenTexts(prompts.tokenizer(checkpoint)))

    with ledger.reading() as session:
        refused = refusals(session, batch.id)
    lines = islice(raw_lines(read_lines(ledger, batch.input_file_id)), batch.num_requests)
    while page := list(islice(lines, _PAGE)):
        with ledger.reading() as session:
            jobs = jobs_of_lines(session, batch.id, page[0].index, page[-1].index + 1)
        for raw in page:
            done = DoneLine(
                batch_id=batch.id,
                status=status,
                index=raw.index,
                content=raw.content,
                # Of a line that was not handed over whole, some choices may be there.
                jobs=jobs.get(raw.index, []) if raw.index < batch.next_line else [],
                refusal=refused.get(raw.index),
            )
            yield result_of(done, texts_of)


class _Sink:
    """One of the files; none is made while there is nothing to write."""

    def __init__(self, ledger: Database, batch: BatchRow, kind: str, now: datetime) -> None:
        self._ledger = ledger
        self._batch = batch
        self._kind = kind
        self._now = now
        self.writer: FileWriter | None = None
        self.num_lines = 0

    @property
    def file_id(self) -> str | None:
        return None if self.writer is None else self.writer.file_id

    def write(self, result: LineResult) -> None:
        if self.writer is None:
            new = NewFile(
                id=new_id("file"),
                tenant=self._batch.tenant,
                filename=f"{self._batch.id}_{self._kind}.jsonl",
                purpose="batch_output",
                created_at=self._now,
                expires_at=self._now + timedelta(seconds=MAX_LIFE_S),
            )
            self.writer = FileWriter(self._ledger, new)
        self.writer.write(json.dumps(result.record, separators=(",", ":")).encode() + b"\n")
        self.num_lines += 1

    def flush(self) -> None:
        if self.writer is not None:
            self.writer.flush()
