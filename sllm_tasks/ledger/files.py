"""Files of tenants: written part by part in short transactions, and there once they are complete.

They are in the ledger because a web process and control share nothing else, and because a batch and its results must
be committed together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session

from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.pages import Page, PageRequest, read_page
from sllm_tasks.ledger.tables import BatchRow, FilePartRow, FileRow
from sllm_tasks.ledger.writes import AS_READ, delete_some, took_place

#: Small enough that a write holds nobody up for long.
PART_BYTES: Final = 1 << 20
#: A file that nobody has completed by then never will be.
_GIVEN_UP_AFTER: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file that is to be written."""

    id: str
    tenant: str
    filename: str
    purpose: str
    created_at: datetime
    expires_at: datetime


class FileWriter:
    """Writes one file; whoever does not `complete` it leaves nothing that anybody sees."""

    def __init__(self, ledger: Database, new: NewFile) -> None:
        self.file_id = new.id
        self.num_bytes = 0
        self._ledger = ledger
        self._buffer = bytearray()
        self._num_parts = 0
        with ledger.transaction() as session:
            session.add(
                FileRow(
                    id=new.id,
                    tenant=new.tenant,
                    filename=new.filename,
                    purpose=new.purpose,
                    created_at=new.created_at,
                    expires_at=new.expires_at,
                )
            )

    def write(self, content: bytes) -> None:
        """Add content; raises UnavailableError."""
        self._buffer += content
        self.num_bytes += len(content)
        while len(self._buffer) >= PART_BYTES:
            self._write_part(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]

    def flush(self) -> None:
        """Write what is left, so that only `complete` remains; nothing can be added after it."""
        if self._buffer:
            self._write_part(bytes(self._buffer))
            self._buffer.clear()

    def complete(self, session: Session, now: datetime) -> None:
        """Make the file one that is there, with whatever else the transaction does; flush it before."""
        session.execute(
            update(FileRow).where(FileRow.id == self.file_id).values(num_bytes=self.num_bytes, complete_at=now),
            execution_options=AS_READ,
        )

    def _write_part(self, content: bytes) -> None:
        with self._ledger.transaction() as session:
            session.add(FilePartRow(file_id=self.file_id, part=self._num_parts, content=content))
        self._num_parts += 1


def get_file(session: Session, file_id: str, tenant: str) -> FileRow | None:
    """Read a complete file's row; None if there is none or it is somebody else's."""
    query = select(FileRow).where(FileRow.id == file_id, FileRow.tenant == tenant, FileRow.complete_at.is_not(None))
    return session.scalar(query)


def list_files(session: Session, tenant: str, request: PageRequest, *, purpose: str | None = None) -> Page[FileRow]:
    """List a tenant's complete files, of one purpose only if given."""
    query = select(FileRow).where(FileRow.tenant == tenant, FileRow.complete_at.is_not(None))
    if purpose is not None:
        query = query.where(FileRow.purpose == purpose)
    return read_page(session, query, FileRow.id, request)


def stored_bytes(session: Session, tenant: str) -> int:
    """How much the files of a tenant take, those that are being written not counted."""
    return session.scalar(select(func.sum(FileRow.num_bytes)).where(FileRow.tenant == tenant)) or 0


def delete_file(session: Session, file_id: str, tenant: str) -> bool:
    """Delete a file; False if there is none, or a batch is yet to read it."""
    is_read = exists().where(BatchRow.input_file_id == file_id, BatchRow.ended_at.is_(None))
    return took_place(session, delete(FileRow).where(FileRow.id == file_id, FileRow.tenant == tenant, ~is_read))


def read_content(ledger: Database, file_id: str, offset: int = 0) -> Iterator[bytes]:
    """Read a file from a place on, part by part, each in a transaction of its own; raises UnavailableError."""
    part, skipped = divmod(offset, PART_BYTES)
    while True:
        with ledger.reading() as session:
            content = session.scalar(select(FilePartRow.content).filter_by(file_id=file_id, part=part))
        if content is None:
            return
        yield content[skipped:]
        part, skipped = part + 1, 0


def read_lines(ledger: Database, file_id: str, offset: int = 0) -> Iterator[bytes]:
    """Read a file's lines, which begin at `offset`, each with its end; raises UnavailableError."""
    rest = b""
    for content in read_content(ledger, file_id, offset):
        *lines, rest = (rest + content).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def purge_files(session: Session, now: datetime, limit: int = 10) -> int:
    """Delete up to `limit` files past their time, or given up half written; returns how many."""
    is_read = exists().where(BatchRow.input_file_id == FileRow.id, BatchRow.ended_at.is_(None))
    is_over = (FileRow.expires_at <= now) | (
        FileRow.complete_at.is_(None) & (FileRow.created_at <= now - _GIVEN_UP_AFTER)
    )
    return delete_some(session, FileRow, is_over & ~is_read, limit)
