"""Schema revisions: bringing a database to the tables that this code expects, and saying whether it is there.

A change of revision is one transaction: all of it or nothing. Whoever else changes the schema meanwhile waits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from sllm_tasks.errors import ConfigError
from sllm_tasks.ledger.connections import connect_engine
from sllm_tasks.ledger.database import errors_named
from sllm_tasks.ledger.tables import Base

_logger = logging.getLogger(__name__)

#: PostgreSQL's advisory lock of whoever changes the schema; any number that nobody else uses.
_SCHEMA_LOCK = 0x511A5C4E
#: For another deployer to finish, and for each statement of a revision to do its work.
_TIMEOUT_S = 60.0


def upgrade(url: str, revision: str = "head") -> None:
    """Bring a database up to a revision; does nothing when it is there.

    Raises ConfigError for a database of a later version than this code.
    """
    with _changing(url) as connection:
        found = _revision_of(connection)
        if found is not None and found > head():
            raise ConfigError(f"the database is at revision {found}, this version knows {head()} and earlier ones")
        command.upgrade(_config(connection), revision)
        _logger.info("ledger schema is at revision %s", _revision_of(connection))


def downgrade(url: str, revision: str) -> None:
    """Bring a database down to a revision, `base` for an empty one; what newer tables held is lost."""
    with _changing(url) as connection:
        command.downgrade(_config(connection), revision)
        _logger.info("ledger schema is at revision %s", _revision_of(connection))


def draft(url: str, message: str) -> Path:
    """Write a new revision from how the tables of the code differ from an upgraded database; for developers."""
    with _changing(url) as connection:
        script = command.revision(_config(connection), message, autogenerate=True, rev_id=f"{int(head()) + 1:04}")
    if script is None or isinstance(script, list):
        raise RuntimeError(f"Alembic drafted {script!r} instead of one revision")
    return Path(script.path)


def current(url: str) -> str | None:
    """Return the revision a database is at, None when it is empty."""
    with _looking(url) as connection:
        return _revision_of(connection)


def head() -> str:
    """Return the revision that this code expects."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("the migrations package holds no revision")
    return revision


def check(url: str) -> tuple[str, ...]:
    """Describe how a database differs from what this code expects; empty when it does not.

    CHECK constraints are not compared: neither database gives back the text it was given.
    """
    expected = head()
    with _looking(url) as connection:
        found = _revision_of(connection)
        if found != expected:
            return (f"the database is at revision {found}, this code expects {expected}",)
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return tuple(str(difference) for difference in compare_metadata(context, Base.metadata))


def _revision_of(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _changing(url: str) -> Iterator[Connection]:
    # Without foreign keys: SQLite's way of altering a table drops the old one, which would delete what refers to it.
    with _connected(url, foreign_keys=False) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SCHEMA_LOCK})
            # A statement that waits for its table makes everybody behind it wait too: give up soon, try again later.
            connection.execute(text("SET LOCAL lock_timeout = '4s'"))
        yield connection


@contextmanager
def _looking(url: str) -> Iterator[Connection]:
    with _connected(url, foreign_keys=True) as connection:
        yield connection


@contextmanager
def _connected(url: str, *, foreign_keys: bool) -> Iterator[Connection]:
    engine = connect_engine(url, timeout_s=_TIMEOUT_S, pool_size=1, foreign_keys=foreign_keys)
    try:
        with errors_named(), engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
