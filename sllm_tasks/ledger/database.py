"""The door to the ledger: sessions for reading and writing, and the one place where its errors get their names."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from sllm_tasks.errors import SllmError, UnavailableError
from sllm_tasks.ledger.connections import READ_ONLY_OPTION, connect_engine

#: SQLite's primary result codes that speak of the file and not of the statement.
_SQLITE_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
#: PostgreSQL's read_only_sql_transaction: a standby, or a server that its operator closed for writing.
_POSTGRESQL_READ_ONLY = "25006"


class IllegalRowError(SllmError):
    """A row broke a constraint of the ledger, or has a value that no column holds: only a bug can do either.

    The message names the constraint, or what is wrong with the value.
    """


class Database:
    """Connections to the ledger; any thread may use it, each for its own transactions.

    A transaction must not be opened inside another one of the same thread: SQLite has one writer.
    """

    def __init__(self, url: str, *, timeout_s: float = 2.0, pool_size: int = 10) -> None:
        self._engine = connect_engine(url, timeout_s=timeout_s, pool_size=pool_size)
        self._timeout_s = timeout_s
        self._writers = sessionmaker(self._engine, expire_on_commit=False)
        self._readers = sessionmaker(self._engine.execution_options(**{READ_ONLY_OPTION: True}), expire_on_commit=False)
        # Writers of this process queue here, because SQLite's own wait is a sleep that lets some starve: of 32 threads
        # that wrote at once the unluckiest waited 1.1 s without this and 0.25 s with it.
        self._writer_turn = threading.Lock() if self._engine.dialect.name == "sqlite" else None

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Commit at the end of the block, or roll back if it raises; UnavailableError if the database is out."""
        with errors_named(), self._turn(), self._writers.begin() as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session whose changes, if any, are rolled back; UnavailableError if the database is out."""
        with errors_named(), self._readers() as session:
            yield session

    def close(self) -> None:
        """Close all idle connections; idempotent."""
        self._engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if self._writer_turn is None:
            yield
            return
        if not self._writer_turn.acquire(timeout=self._timeout_s):
            raise UnavailableError("the database is busy: other writers of this process did not finish")
        try:
            yield
        finally:
            self._writer_turn.release()

    def __repr__(self) -> str:
        return f"<Database {self._engine.url.render_as_string()}>"


@contextmanager
def errors_named() -> Iterator[None]:
    """Raise UnavailableError or IllegalRowError for what SQLAlchemy raises in the block; other errors are bugs."""
    try:
        yield
    except PoolTimeoutError as error:
        raise UnavailableError("the database is busy: no connection became free") from error
    except (IntegrityError, DataError) as error:
        # Without the cause: PostgreSQL's error quotes the row, with the prompt in it, to whoever logs it.
        raise IllegalRowError(_primary_message(error)) from None
    except DBAPIError as error:
        if _is_outage(error):
            raise UnavailableError(f"the database did not answer: {error.orig}") from error
        raise


def _primary_message(error: DBAPIError) -> str:
    # psycopg's errors have the message in parts; SQLite's are a line that names the constraint.
    # What psycopg itself refuses to send has none.
    diagnosis = getattr(error.orig, "diag", None)
    return str(getattr(diagnosis, "message_primary", None) or error.orig)


def _is_outage(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_OUTAGES
    # psycopg's OperationalError: connection lost, shutting down, out of resources, time limit, deadlock.
    return (
        isinstance(error, OperationalError | InterfaceError)
        or getattr(error.orig, "sqlstate", None) == _POSTGRESQL_READ_ONLY
    )
