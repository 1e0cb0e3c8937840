"""Copies of a ledger that is kept in SQLite: made while it is in use, put back while it is not."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from sllm_tasks.errors import ConfigError, ConflictError, UnavailableError
from sllm_tasks.ledger.connections import parse_url
from sllm_tasks.ledger.schema import head

_TIMEOUT_S: Final = 10.0


def back_up(url: str, path: Path) -> None:
    """Write the ledger as it is at one moment to a new file; nobody who works with it waits for that.

    Raises:
        ConflictError: The file is there already.
        UnavailableError: The ledger cannot be read, or the file not be written.

    """
    source, unfinished = _file_of(url), path.with_name(f".{path.name}.{os.getpid()}")
    with _errors_named():
        try:
            # Prompts and outputs are in it.
            unfinished.touch(mode=0o600, exist_ok=False)
            with _opened(source) as ledger, _opened(unfinished) as copy:
                ledger.backup(copy)
                # One file, without a log beside it.
                copy.execute("PRAGMA journal_mode = DELETE")
            _make_durable(unfinished)
            os.link(unfinished, path)
            _make_durable(path.parent)
        except FileExistsError as error:
            raise ConflictError(f"{path} is there already") from error
        finally:
            unfinished.unlink(missing_ok=True)


def restore(url: str, path: Path) -> None:
    """Make the ledger what a backup holds: all of it or, when this is interrupted, nothing of it.

    Raises:
        ConfigError: The file is no sound ledger, or of a later version than this code.
        ConflictError: Some process has the ledger open.
        UnavailableError: The ledger cannot be written.

    """
    target = _file_of(url)
    with _errors_named():
        _check(path)
        target.touch(mode=0o600)
        with _opened(path) as copy, _opened(target) as ledger:
            try:
                # Only who is alone with a database can take its write-ahead log away.
                ledger.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.OperationalError as error:
                raise ConflictError(f"{target} is in use: stop web, router and control first") from error
            copy.backup(ledger)


def _check(path: Path) -> None:
    try:
        with _opened(path) as copy:
            (found,) = copy.execute("PRAGMA integrity_check").fetchone()
            revisions = copy.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error as error:
        raise ConfigError(f"{path} is no ledger: {error}") from error
    if found != "ok":
        raise ConfigError(f"{path} is damaged: {found}")
    if not revisions:
        raise ConfigError(f"{path} is no ledger: it is at no revision")
    ((revision,),) = revisions
    if revision > head():
        raise ConfigError(f"{path} is at revision {revision}, this version knows {head()} and earlier ones")


def _file_of(url: str) -> Path:
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database is None:
        raise ConfigError("database_url: not an SQLite file; PostgreSQL has pg_dump and pg_restore")
    return Path(parsed.database)


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    # Never makes a file: a wrong path is an error.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", timeout=_TIMEOUT_S, uri=True)) as connection:
        yield connection


def _make_durable(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _errors_named() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise UnavailableError(f"the ledger's files do not let us: {error}") from error
