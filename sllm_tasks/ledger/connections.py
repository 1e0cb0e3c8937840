"""How a connection to the ledger's database is made: time limits, durability, when a transaction takes its lock."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from sllm_tasks.errors import ConfigError

#: Execution option of an engine whose transactions only read.
READ_ONLY_OPTION = "ledger_reading"


def parse_url(text: str) -> URL:
    """Read a database URL; raises ConfigError for what the ledger cannot be kept in."""
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigError(
            "the database URL is not of the form sqlite:///<file> or postgresql://<host>/<name>"
        ) from error
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and url.database not in {None, "", ":memory:"}:
        return url.set(drivername="sqlite")
    raise ConfigError(f"the database must be an SQLite file or PostgreSQL, not {url.render_as_string()!r}")


def connect_engine(text: str, *, timeout_s: float, pool_size: int, foreign_keys: bool = True) -> Engine:
    """Make a pool of connections; each wait (pool, connect, lock, statement) is bounded by `timeout_s`."""
    url = parse_url(text)
    if url.get_backend_name() == "sqlite":
        connect_args: dict[str, object] = {"timeout": timeout_s}
    else:
        connect_args = _postgresql_arguments(timeout_s)
    engine = create_engine(
        url,
        connect_args=connect_args,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_pre_ping=url.get_backend_name() == "postgresql",
        # Prompts are parameters of statements and must not end up in logs or error messages.
        hide_parameters=True,
    )
    if url.get_backend_name() == "sqlite":
        _prepare_sqlite(engine, timeout_s, foreign_keys)
    return engine


def _postgresql_arguments(timeout_s: float) -> dict[str, object]:
    milliseconds = int(timeout_s * 1000)
    return {
        # libpq counts whole seconds.
        "connect_timeout": math.ceil(timeout_s),
        # Gives up a connection whose peer vanished without a word; statement_timeout needs a server that answers.
        "tcp_user_timeout": milliseconds,
        "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds} -c timezone=UTC",
    }


def _prepare_sqlite(engine: Engine, timeout_s: float, foreign_keys: bool) -> None:
    @event.listens_for(engine, "do_connect")
    def _close_to_others(*_: object) -> None:
        if engine.url.database is not None and not engine.url.query:
            _make_file_private(engine.url.database)

    @event.listens_for(engine, "connect")
    def _set_up(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        # The driver would begin transactions by itself, deferred and too late; `_begin` does it.
        connection.isolation_level = None
        _switch_to_wal(connection, timeout_s)
        # FULL: in WAL mode a commit that was acknowledged would otherwise be lost with the machine's power.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A writer takes its lock first: two that read and then want to write could only fail, never wait.
        reading = connection.get_execution_options().get(READ_ONLY_OPTION, False)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _make_file_private(path: str) -> None:
    # Prompts and outputs are in there. Without opening it: when a process closes any descriptor of a file, it loses
    # SQLite's locks on it. What goes wrong here, SQLite says better when it opens the file.
    with suppress(OSError):
        os.mknod(path, stat.S_IFREG | 0o600)
    for file in (Path(path), Path(f"{path}-wal"), Path(f"{path}-shm")):
        with suppress(OSError):
            if file.stat().st_mode & 0o077:
                file.chmod(0o600)


def _switch_to_wal(connection: sqlite3.Connection, timeout_s: float) -> None:
    # The mode stays with the file, so only the first connection of all does anything; when there are several first
    # ones, SQLite fails the others at once instead of waiting as it does for every other lock.
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
