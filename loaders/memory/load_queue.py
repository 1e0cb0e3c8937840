"""The queue of a node's disk: every load holds a ticket, and reads when it is its turn."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from loaders.memory.database import Database
from loaders.memory.processes import ProcessFile
from loaders.memory.ranking import LoadClass, LoadRecord, may_read, rank
from loaders.memory.records import ContentKey
from loaders.memory.sweeping import sweep_if_needed

#: How long an answer holds: less than a chunk of 16 MiB takes, and a look costs some 30 µs.
_ANSWER_S = 0.004
#: How old what others know of a load's progress may be: a chunk takes 6 ms, a note of it up to 1 ms of all its threads.
_NOTE_S = 0.02
#: How long a dead load may hold up the others.
_SWEEP_S = 0.1


class LoadQueue:
    """The loads of a node. Threads may share it."""

    def __init__(self, database: Database, process: ProcessFile) -> None:
        self._database = database
        self._process = process

    def join(self, load_id: str, key: ContentKey, load_class: LoadClass, total_bytes: int) -> Ticket:
        """Queue a load; leave by closing the ticket. The ticket dies with the process."""
        return Ticket(self, self._insert(load_id, key, load_class, total_bytes), total_bytes)

    def loads(self) -> tuple[LoadRecord, ...]:
        """All loads of the node, in the order of their turns."""
        sweep_if_needed(self._database, self._process)
        return tuple(rank(self._read(), time.monotonic()))

    def is_turn_of(self, ticket: int) -> bool:
        """Whether a load may read now; one that has left may."""
        return may_read(ticket, self._read(), time.monotonic())

    def drop_dead(self) -> None:
        """Forget the loads of dead processes."""
        sweep_if_needed(self._database, self._process)

    def note(self, ticket: int, remaining_bytes: int, started_s: float | None) -> None:
        """Write down how far a load is."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE tickets SET remaining_bytes = ?, started_s = ?, progressed_s = ? WHERE id = ?",
                (remaining_bytes, started_s, time.monotonic(), ticket),
            )

    def leave(self, ticket: int) -> None:
        """Forget a load; no matter if the queue is closed, which forgets all of this process."""
        if self._process.is_owner and not self._process.is_closed:
            with self._database.transaction() as connection:
                connection.execute("DELETE FROM tickets WHERE id = ?", (ticket,))

    def _insert(self, load_id: str, key: ContentKey, load_class: LoadClass, total_bytes: int) -> int:
        now_s = time.monotonic()
        with self._database.transaction() as connection:
            connection.execute(
                """INSERT INTO tickets (process, load_id, key, load_class, total_bytes, remaining_bytes, arrived_s,
                                        progressed_s)
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
                (self._process.token, load_id, key, load_class.value, total_bytes, total_bytes, now_s, now_s),
            )
            return int(connection.execute("SELECT last_insert_rowid()").fetchone()[0])

    def _read(self) -> list[LoadRecord]:
        rows = self._database.query(
            """SELECT id, load_id, key, load_class, total_bytes, remaining_bytes, arrived_s, started_s, progressed_s
               FROM tickets"""
        )
        return [
            LoadRecord(
                ticket=row[0],
                load_id=row[1],
                key=ContentKey(row[2]),
                load_class=LoadClass(row[3]),
                total_bytes=row[4],
                remaining_bytes=row[5],
                arrived_s=row[6],
                started_s=row[7],
                progressed_s=row[8],
            )
            for row in rows
        ]


class Ticket:
    """A load's place in the queue. Threads may share it."""

    def __init__(self, queue: LoadQueue, ticket: int, total_bytes: int) -> None:
        """Stand for a queued load; `LoadQueue.join` is how to get one."""
        self._queue = queue
        self._ticket = ticket
        # All below: under the lock.
        self._lock = threading.Lock()
        self._remaining_bytes = total_bytes
        self._started_s: float | None = None
        self._answer = False
        self._look_at = 0.0
        self._note_at = 0.0
        self._sweep_at = 0.0
        self._closed = False

    def may_read(self) -> bool:
        """Whether to begin to read another chunk now; the answer is a few milliseconds old at most."""
        now = time.monotonic()
        with self._lock:
            if now >= self._look_at:
                self._answer = self._queue.is_turn_of(self._ticket)
                self._look_at = now + _ANSWER_S
                if self._answer and self._started_s is None:
                    self._started_s = now
                if not self._answer and now >= self._sweep_at:
                    self._queue.drop_dead()
                    self._sweep_at = now + _SWEEP_S
            return self._answer

    def update(self, remaining_bytes: int) -> None:
        """Tell how many bytes are still to be read; at 0 the next load has its turn though this one goes on."""
        now = time.monotonic()
        with self._lock:
            if remaining_bytes < self._remaining_bytes and (now >= self._note_at or remaining_bytes == 0):
                self._remaining_bytes = remaining_bytes
                self._note_at = now + _NOTE_S
                self._queue.note(self._ticket, remaining_bytes, self._started_s)

    def close(self) -> None:
        """Leave the queue; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.leave(self._ticket)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
