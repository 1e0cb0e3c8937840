"""Who fills which chunk of a content: each is filled once, by whoever claimed it first."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from loaders.errors import ContentDiscardedError, PoolError
from loaders.memory.contents import LeaseRecord
from loaders.memory.database import Database

_NEXT = """SELECT position FROM chunks WHERE content_id = ? AND filled IS NULL AND lease_id IS NULL
           ORDER BY position LIMIT ?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewlyFilled:
    """Chunks that were filled after some point in the order of filling."""

    positions: set[int]
    #: The point up to which they were looked at.
    upto: int


class Fills:
    """The chunks of one content through one lease on it."""

    def __init__(self, database: Database, lease: LeaseRecord) -> None:
        self._database = database
        self._lease = lease

    def claim(self, limit: int) -> range:
        """Take the first chunks, side by side, that nobody has filled or claimed. Raises ContentDiscardedError."""
        # Readers that have nothing left to do ask again and again; they do not keep those from writing who have.
        if not self._database.query(_NEXT, self._lease.content_id, 1):
            with self._database.snapshot() as connection:
                self._check_not_discarded(connection)
            return range(0)
        with self._database.transaction() as connection:
            self._check_not_discarded(connection)
            free = _side_by_side(position for (position,) in connection.execute(_NEXT, (self._lease.content_id, limit)))
            connection.execute(
                "UPDATE chunks SET lease_id = ? WHERE content_id = ? AND position >= ? AND position < ?",
                (self._lease.id, self._lease.content_id, free.start, free.stop),
            )
            return free

    def filled(self, position: int) -> None:
        """Say that a claimed chunk is there and checked. Raises PoolError when it is not claimed through this lease."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                """UPDATE chunks SET lease_id = NULL,
                          filled = (SELECT 1 + coalesce(max(filled), 0) FROM chunks WHERE content_id = :content)
                   WHERE content_id = :content AND position = :position AND lease_id = :lease""",
                {"content": self._lease.content_id, "position": position, "lease": self._lease.id},
            )
            self._check_changed(changed, position)

    def give_back(self, position: int) -> None:
        """Let others claim a chunk. Raises PoolError when it is not claimed through this lease."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "UPDATE chunks SET lease_id = NULL WHERE content_id = ? AND position = ? AND lease_id = ?",
                (self._lease.content_id, position, self._lease.id),
            )
            self._check_changed(changed, position)

    def filled_since(self, point: int) -> NewlyFilled:
        """Chunks filled after a point (0: all), by whoever. Raises ContentDiscardedError."""
        with self._database.snapshot() as connection:
            self._check_not_discarded(connection)
            rows = connection.execute(
                "SELECT position, filled FROM chunks WHERE content_id = ? AND filled > ?",
                (self._lease.content_id, point),
            ).fetchall()
        return NewlyFilled(
            positions={position for position, _ in rows},
            upto=max((filled for _, filled in rows), default=point),
        )

    def is_complete(self) -> bool:
        """Whether all chunks are filled."""
        missing = "SELECT 1 FROM chunks WHERE content_id = ? AND filled IS NULL LIMIT 1"
        return not self._database.query(missing, self._lease.content_id)

    def _check_not_discarded(self, connection: sqlite3.Connection) -> None:
        row = connection.execute("SELECT discarded FROM contents WHERE id = ?", (self._lease.content_id,)).fetchone()
        if row is None or row[0]:
            raise ContentDiscardedError(f"{self._lease.key}: discarded by one of those who share it")

    def _check_changed(self, changed: sqlite3.Cursor, position: int) -> None:
        if changed.rowcount != 1:
            raise PoolError(f"{self._lease.key}: chunk {position} is not claimed through this lease")


def _side_by_side(positions: Iterable[int]) -> range:
    """The first of ascending positions, up to where one is missing."""
    run = range(0)
    for position in positions:
        if run and position != run.stop:
            break
        run = range(run.start if run else position, position + 1)
    return run
