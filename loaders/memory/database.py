"""The pool's directory as a database file: short transactions of many processes, and the names of what can go wrong.

The file is on tmpfs and has to survive the death of any process at any point, not a power cut, which takes the pool's
memory along: so nothing is ever synchronised to a disk.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loaders.errors import PoolBusyError, PoolCorruptError, PoolError, PoolSpaceError

#: A transaction takes some 50 µs; one that holds the others up for so long belongs to a process that was stopped.
_BUSY_TIMEOUT_S = 10.0

#: Of the file, and again of its log; the log is moved into the file at half of it.
_ROOM_BYTES = 2 << 20
_CHECKPOINT = f"wal_autocheckpoint={_ROOM_BYTES // 2 // 4096}"

#: A row of a query; what is in its columns is known where the query is written.
Row = tuple[Any, ...]


class Database:
    """One connection, for all threads of this process, one at a time."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises PoolError."""
        self.path = path
        self._pid = os.getpid()
        self._lock = threading.Lock()
        with _named(path):
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, cached_statements=256
            )
            try:
                for pragma in (
                    "journal_mode=WAL",
                    "synchronous=OFF",
                    "foreign_keys=ON",
                    "temp_store=MEMORY",
                    _CHECKPOINT,
                ):
                    self._connection.execute(f"PRAGMA {pragma}")
            except sqlite3.Error:
                self._connection.close()
                raise

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Change rows, all or none; nobody else changes any meanwhile. Raises PoolError."""
        with self._locked() as connection:
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """Read several times from one state. Raises PoolError."""
        with self._locked() as connection:
            connection.execute("BEGIN")
            with connection:
                yield connection

    def query(self, sql: str, *arguments: object) -> list[Row]:
        """Read once. Raises PoolError."""
        with self._locked() as connection:
            return connection.execute(sql, arguments).fetchall()

    def reserve_room(self) -> None:
        """Let the files grow to a size that they seldom exceed, while the file system has room for it.

        A directory that could not be written any more when something else has filled the file system could not let go
        of anything either. The log is reused from its start once it has this size, and deleted pages are used again;
        the log goes when the last process closes the file, so whoever comes first does this anew.
        """
        with self.transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS room (filler BLOB)")
            connection.execute("DELETE FROM room")
            connection.execute("INSERT INTO room VALUES (zeroblob(?))", (_ROOM_BYTES,))
        with self.transaction() as connection:
            connection.execute("DROP TABLE room")

    def close(self) -> None:
        """Close the connection; in a forked process it is left to the parent."""
        if os.getpid() == self._pid:
            with self._lock:
                self._connection.close()

    @contextmanager
    def _locked(self) -> Iterator[sqlite3.Connection]:
        # Before the lock: a thread that did not come along by fork may hold it.
        if os.getpid() != self._pid:
            raise PoolError(f"{self.path}: opened before this process was forked; open the pool anew")
        with self._lock, _named(self.path):
            yield self._connection


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give SQLite's errors our names."""
    try:
        yield
    except sqlite3.ProgrammingError as error:
        raise PoolError(f"{path}: the pool is closed") from error
    except sqlite3.Error as error:
        raise _translate(path, error) from error


def _translate(path: Path, error: sqlite3.Error) -> PoolError:
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return PoolBusyError(f"{path}: another process has held the directory for {_BUSY_TIMEOUT_S:g} s")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return PoolCorruptError(f"{path}: damaged: {error}")
        case sqlite3.SQLITE_FULL:
            free = _free_bytes(path)
            return PoolSpaceError(f"{path}: no room to write; {free} bytes are free", needed_bytes=1, free_bytes=free)
        case _:
            return PoolError(f"{path}: {error}")


def _free_bytes(path: Path) -> int:
    room = os.statvfs(path.parent)
    return room.f_bavail * room.f_frsize
