"""Contents of the pool and who leases them: rows of the directory."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass

from loaders.errors import ContentMissingError, PoolBusyError, PoolMismatchError
from loaders.memory.allocation import Allocation, Extent, Occupied, allocate
from loaders.memory.database import Database
from loaders.memory.processes import ProcessFile
from loaders.memory.records import ContentKey, ContentRecord, PoolShape, PoolUsage
from loaders.memory.sweeping import drop_leases, sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """A lease as the directory keeps it."""

    id: int
    content_id: int
    key: ContentKey
    num_bytes: int
    #: Where the content is, in its own order.
    extents: tuple[Extent, ...]


class Contents:
    """The contents of one pool, as one process sees and changes them."""

    def __init__(self, database: Database, process: ProcessFile, shape: PoolShape) -> None:
        self._database = database
        self._process = process
        self._shape = shape

    def lease(self, key: ContentKey, num_bytes: int) -> LeaseRecord | None:
        """Share the content of that key, or make room for it; None if there is none to be made.

        Raises PoolMismatchError when the key's content has another size.
        """
        with self._database.transaction() as connection:
            sweep(connection, self._process)
            content_id = _find(connection, key, num_bytes)
            if content_id is None:
                content_id = self._make(connection, key, num_bytes)
            if content_id is None:
                return None
            _touch(connection, content_id)
            row = (content_id, self._process.token)
            lease_id = _insert(connection, "INSERT INTO leases (content_id, process) VALUES (?, ?)", row)
            return LeaseRecord(
                id=lease_id,
                content_id=content_id,
                key=key,
                num_bytes=num_bytes,
                extents=_extents_of(connection, content_id),
            )

    def release(self, lease: LeaseRecord) -> None:
        """End a lease; chunks that it was filling can be claimed by others again."""
        with self._database.transaction() as connection:
            _touch(connection, lease.content_id)
            drop_leases(connection, [lease.id])

    def discard(self, lease: LeaseRecord) -> None:
        """Keep a wrong content from all who have not leased it yet; its chunks go with its last lease."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE contents SET discarded = 1 WHERE id = ?", (lease.content_id,))

    def pin(self, key: ContentKey) -> None:
        """Keep a content from being evicted, whoever lives. Raises ContentMissingError."""
        with self._database.transaction() as connection:
            changed = connection.execute("UPDATE contents SET pinned = 1 WHERE key = ? AND NOT discarded", (key,))
            if changed.rowcount == 0:
                raise ContentMissingError(f"{key}: not in the pool")

    def unpin(self, key: ContentKey) -> None:
        """Let a content be evicted, if it is there."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE contents SET pinned = 0 WHERE key = ?", (key,))

    def free(self, key: ContentKey) -> None:
        """Free a content, if it is there, pinned or not. Raises PoolBusyError when it is leased."""
        with self._database.transaction() as connection:
            sweep(connection, self._process)
            row = connection.execute("SELECT id FROM contents WHERE key = ? AND NOT discarded", (key,)).fetchone()
            if row is None:
                return
            num_leases = connection.execute("SELECT count(*) FROM leases WHERE content_id = ?", row).fetchone()[0]
            if num_leases:
                raise PoolBusyError(f"{key}: in use by {num_leases} leases")
            connection.execute("DELETE FROM contents WHERE id = ?", row)

    def records(self) -> tuple[ContentRecord, ...]:
        """All contents that can be leased, the most recently used first."""
        rows = self._database.query(
            """SELECT key, num_bytes, num_chunks, pinned, last_use_s,
                      (SELECT count(*) FROM leases WHERE content_id = contents.id),
                      (SELECT count(*) FROM chunks WHERE content_id = contents.id AND filled IS NOT NULL),
                      (SELECT filled IS NOT NULL FROM chunks
                       WHERE content_id = contents.id AND position = contents.num_chunks - 1)
               FROM contents WHERE NOT discarded ORDER BY last_use_s DESC, id DESC"""
        )
        return tuple(
            ContentRecord(
                key=ContentKey(key),
                num_bytes=num_bytes,
                filled_bytes=self._filled_bytes(num_bytes, num_chunks, num_filled, last_filled=bool(last_filled)),
                num_leases=num_leases,
                pinned=bool(pinned),
                last_use_s=last_use_s,
            )
            for key, num_bytes, num_chunks, pinned, last_use_s, num_leases, num_filled, last_filled in rows
        )

    def usage(self) -> PoolUsage:
        """How full the pool is."""
        rows = self._database.query(
            """SELECT num_chunks, pinned, EXISTS (SELECT 1 FROM leases WHERE content_id = contents.id) FROM contents"""
        )
        chunk_bytes = self._shape.chunk_bytes
        leased = sum(num_chunks for num_chunks, _, is_leased in rows if is_leased)
        pinned = sum(num_chunks for num_chunks, is_pinned, is_leased in rows if is_pinned and not is_leased)
        held = sum(num_chunks for num_chunks, _, _ in rows)
        return PoolUsage(
            free_bytes=(self._shape.num_chunks - held) * chunk_bytes,
            evictable_bytes=(held - leased - pinned) * chunk_bytes,
            leased_bytes=leased * chunk_bytes,
            pinned_bytes=pinned * chunk_bytes,
        )

    def _make(self, connection: sqlite3.Connection, key: ContentKey, num_bytes: int) -> int | None:
        num_chunks = -(-num_bytes // self._shape.chunk_bytes)
        allocation = allocate(num_chunks, self._shape.num_chunks, _occupied(connection))
        if allocation is None:
            return None
        connection.executemany("DELETE FROM contents WHERE id = ?", [(victim,) for victim in allocation.evicted])
        content_id = _insert(
            connection,
            "INSERT INTO contents (key, num_bytes, num_chunks, last_use_s) VALUES (?, ?, ?, 0)",
            (key, num_bytes, num_chunks),
        )
        connection.executemany(
            "INSERT INTO chunks (content_id, position) VALUES (?, ?)",
            [(content_id, position) for position in range(num_chunks)],
        )
        _insert_extents(connection, content_id, allocation)
        return content_id

    def _filled_bytes(self, num_bytes: int, num_chunks: int, num_filled: int, *, last_filled: bool) -> int:
        """Bytes in filled chunks; the last chunk is seldom whole."""
        padding = num_chunks * self._shape.chunk_bytes - num_bytes
        return num_filled * self._shape.chunk_bytes - (padding if last_filled else 0)


def _find(connection: sqlite3.Connection, key: ContentKey, num_bytes: int) -> int | None:
    row = connection.execute("SELECT id, num_bytes FROM contents WHERE key = ? AND NOT discarded", (key,)).fetchone()
    if row is None:
        return None
    content_id, there_bytes = row
    if there_bytes != num_bytes:
        raise PoolMismatchError(f"{key}: the pool holds {there_bytes} bytes under this key, not {num_bytes}")
    return int(content_id)


def _insert(connection: sqlite3.Connection, sql: str, row: tuple[object, ...]) -> int:
    """Insert a row; returns the id that it was given."""
    connection.execute(sql, row)
    return int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])


def _touch(connection: sqlite3.Connection, content_id: int) -> None:
    connection.execute("UPDATE contents SET last_use_s = ? WHERE id = ?", (time.monotonic(), content_id))


def _extents_of(connection: sqlite3.Connection, content_id: int) -> tuple[Extent, ...]:
    rows = connection.execute(
        "SELECT start, num_chunks FROM extents WHERE content_id = ? ORDER BY position", (content_id,)
    )
    return tuple(Extent(start=start, num_chunks=num_chunks) for start, num_chunks in rows)


def _insert_extents(connection: sqlite3.Connection, content_id: int, allocation: Allocation) -> None:
    position = 0
    for extent in allocation.extents:
        connection.execute(
            "INSERT INTO extents (start, num_chunks, content_id, position) VALUES (?, ?, ?, ?)",
            (extent.start, extent.num_chunks, content_id, position),
        )
        position += extent.num_chunks


def _occupied(connection: sqlite3.Connection) -> list[Occupied]:
    rows = connection.execute(
        """SELECT start, extents.num_chunks, contents.id, last_use_s,
                  NOT pinned AND NOT EXISTS (SELECT 1 FROM leases WHERE content_id = contents.id)
           FROM extents JOIN contents ON contents.id = content_id"""
    )
    return [
        Occupied(
            extent=Extent(start=start, num_chunks=num_chunks),
            content_id=content_id,
            last_use_s=last_use_s,
            evictable=bool(evictable),
        )
        for start, num_chunks, content_id, last_use_s, evictable in rows
    ]
