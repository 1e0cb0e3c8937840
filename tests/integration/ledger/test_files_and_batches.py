"""Files appear whole or not at all, and a batch changes by conditional updates only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from sllm_tasks.ids import new_id
from sllm_tasks.ledger import batches, files
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.files import PART_BYTES, FileWriter, NewFile
from sllm_tasks.ledger.keys import ensure_tenant
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import BATCH_TRANSITIONS, BatchStatus

_NOW = datetime(2026, 11, 21, tzinfo=UTC)
_TENANT = "writer"


@pytest.fixture(autouse=True)
def _tenants(database: Database) -> None:
    with database.transaction() as session:
        ensure_tenant(session, _TENANT, now=_NOW)


def _begin(database: Database, *, life: timedelta = timedelta(days=1)) -> FileWriter:
    new = NewFile(
        id=new_id("file"),
        tenant=_TENANT,
        filename="../a\0b",
        purpose="batch",
        created_at=_NOW,
        expires_at=_NOW + life,
    )
    return FileWriter(database, new)


def _write(database: Database, content: bytes) -> str:
    writer = _begin(database)
    for start in range(0, len(content), 100_001):
        writer.write(content[start : start + 100_001])
    writer.flush()
    with database.transaction() as session:
        writer.complete(session, _NOW)
    return writer.file_id


def _add_batch(database: Database, file_id: str) -> str:
    new = batches.NewBatch(
        id=new_id("batch"),
        tenant=_TENANT,
        endpoint="/v1/completions",
        input_file_id=file_id,
        metadata=None,
        created_at=_NOW,
        expires_at=_NOW + timedelta(days=1),
    )
    with database.transaction() as session:
        batches.add_batch(session, new)
    return new.id


_RESULTS = batches.BatchResults(output_file_id=None, error_file_id=None, num_completed=0, num_failed=0)


def test_a_file_is_read_as_it_was_written_from_any_place_on(database: Database) -> None:
    content = bytes(range(256)) * (PART_BYTES // 100)
    file_id = _write(database, content)
    for offset in (0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, len(content)):
        assert b"".join(files.read_content(database, file_id, offset)) == content[offset:]


def test_lines_run_over_the_borders_of_parts(database: Database) -> None:
    lines = [b"x" * length + b"\n" for length in (0, 5, PART_BYTES - 7, 3, 2 * PART_BYTES)] + [b"no end"]
    file_id = _write(database, b"".join(lines))
    assert list(files.read_lines(database, file_id)) == lines
    assert list(files.read_lines(database, file_id, len(lines[0]) + len(lines[1]))) == lines[2:]


def test_a_file_that_nobody_completed_is_not_there_and_is_purged(database: Database) -> None:
    writer = _begin(database)
    writer.write(b"x" * (PART_BYTES + 1))
    with database.transaction() as session:
        assert files.get_file(session, writer.file_id, _TENANT) is None
        assert files.list_files(session, _TENANT, PageRequest()).rows == ()
        assert files.purge_files(session, _NOW) == 0
        assert files.purge_files(session, _NOW + timedelta(hours=2)) == 1
    assert list(files.read_content(database, writer.file_id)) == []


def test_files_belong_to_their_tenant(database: Database) -> None:
    file_id = _write(database, b"mine")
    with database.transaction() as session:
        assert files.get_file(session, file_id, "other") is None
        assert not files.delete_file(session, file_id, "other")
        row = files.get_file(session, file_id, _TENANT)
        assert row is not None
        assert (row.num_bytes, row.filename) == (4, "../a\ufffdb")
        assert files.stored_bytes(session, _TENANT) == 4


def test_a_file_that_a_batch_is_yet_to_read_cannot_go(database: Database) -> None:
    file_id = _write(database, b"x")
    batch_id = _add_batch(database, file_id)
    late = _NOW + timedelta(days=2)
    with database.transaction() as session:
        assert not files.delete_file(session, file_id, _TENANT)
        assert files.purge_files(session, late) == 0
        assert batches.refuse_batch(session, batch_id, [{"code": "x"}], now=_NOW)
    with database.transaction() as session:
        assert files.purge_files(session, late) == 1


@pytest.mark.parametrize("status", [status for status, after in BATCH_TRANSITIONS.items() if not after])
def test_a_batch_that_has_ended_cannot_end_again(database: Database, status: BatchStatus) -> None:
    batch_id = _add_batch(database, "file_x")
    with database.transaction() as session:
        if status is BatchStatus.FAILED:
            assert batches.refuse_batch(session, batch_id, [], now=_NOW)
        elif status is BatchStatus.CANCELED:
            assert batches.note_canceling_batch(session, batch_id, now=_NOW)
            assert batches.end_batch(session, batch_id, status, _RESULTS, now=_NOW)
        else:
            assert batches.begin_batch(session, batch_id, num_requests=1, now=_NOW)
            assert batches.note_finalizing_batch(session, batch_id, now=_NOW)
            assert batches.end_batch(session, batch_id, status, _RESULTS, now=_NOW)
    with database.transaction() as session:
        assert not batches.note_canceling_batch(session, batch_id, now=_NOW)
        assert not any(batches.end_batch(session, batch_id, other, _RESULTS, now=_NOW) for other in BatchStatus)
        assert list(batches.open_batches(session)) == []


def test_the_place_in_a_file_never_goes_back(database: Database) -> None:
    batch_id = _add_batch(database, "file_x")
    with database.transaction() as session:
        assert batches.advance_batch(session, batch_id, next_line=5, next_offset=50)
        assert not batches.advance_batch(session, batch_id, next_line=5, next_offset=60)
        assert not batches.advance_batch(session, batch_id, next_line=4, next_offset=40)


def test_a_line_is_refused_once(database: Database) -> None:
    batch_id = _add_batch(database, "file_x")
    with database.transaction() as session:
        assert batches.add_refusal(session, batch_id, 3, status=400, body={"error": "first"})
        assert not batches.add_refusal(session, batch_id, 3, status=404, body={"error": "second"})
        assert {line: row.body for line, row in batches.refusals(session, batch_id).items()} == {3: {"error": "first"}}
