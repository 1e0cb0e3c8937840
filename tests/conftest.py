"""Fixtures for the whole suite: databases to keep a ledger in."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sllm_tasks.ledger import schema
from sllm_tasks.ledger.database import Database
from tests.support.postgres import PostgresServer, find_binaries

_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server; a machine of CI that has none is an error, a laptop skips and says so."""
    binaries = find_binaries()
    if binaries is None:
        missing = "PostgreSQL is not installed (apt-get install postgresql): its tests cannot run"
        if os.environ.get("CI") == "true":
            pytest.fail(missing)
        pytest.skip(missing)
    with PostgresServer(binaries) as server:
        yield server


@pytest.fixture(scope="session")
def _postgres_template(postgres_server: PostgresServer) -> Iterator[str]:
    with postgres_server.database("ledger_template") as url:
        schema.upgrade(url)
        yield "ledger_template"


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "template.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database(f"empty_{next(_numbers)}") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database of each kind, upgraded and empty."""
    if request.param == "sqlite":
        path = tmp_path / "ledger.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    template: str = request.getfixturevalue("_postgres_template")
    with server.database(f"ledger_{next(_numbers)}", template) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A ledger of each kind."""
    opened = Database(database_url, timeout_s=10.0)
    yield opened
    opened.close()
