"""Writes of many threads share a commit without sharing their failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sllm_tasks.errors import ConflictError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.group_commit import GroupCommit
from sllm_tasks.ledger.keys import ensure_tenant

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class CountingDatabase:
    """Counts the transactions of a database, each of which may be made to wait at its beginning."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.num_transactions = 0
        self.may_begin = threading.Event()

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        self.may_begin.wait(10)
        self.num_transactions += 1
        with self._database.transaction() as session:
            yield session


def tenants(database: Database) -> set[str]:
    with database.reading() as session:
        return set(session.scalars(text("SELECT id FROM tenants WHERE id LIKE 'group-%'")))


def test_writes_that_wait_together_are_committed_together(database: Database) -> None:
    counting = CountingDatabase(database)
    commits = GroupCommit(counting)  # type: ignore[arg-type]
    threads = [
        threading.Thread(target=commits.run, args=(lambda session, i=i: ensure_tenant(session, f"group-{i}", now=NOW),))
        for i in range(20)
    ]
    for thread in threads:
        thread.start()
    counting.may_begin.set()
    for thread in threads:
        thread.join(20)
    assert tenants(database) == {f"group-{i}" for i in range(20)}
    assert counting.num_transactions < 20


def test_a_write_that_refuses_is_undone_alone(database: Database) -> None:
    counting = CountingDatabase(database)
    commits = GroupCommit(counting)  # type: ignore[arg-type]
    errors: list[Exception] = []

    def refuse() -> None:
        def write(session: Session) -> None:
            ensure_tenant(session, "group-refused", now=NOW)
            raise ConflictError("no")

        try:
            commits.run(write)
        except ConflictError as error:
            errors.append(error)

    others = threading.Thread(target=commits.run, args=(lambda session: ensure_tenant(session, "group-good", now=NOW),))
    refusing = threading.Thread(target=refuse)
    for thread in (others, refusing):
        thread.start()
    counting.may_begin.set()
    for thread in (others, refusing):
        thread.join(20)
    assert tenants(database) == {"group-good"}
    assert len(errors) == 1


def test_the_result_of_a_write_comes_back_to_its_own_thread(database: Database) -> None:
    commits = GroupCommit(database)
    assert commits.run(lambda session: ensure_tenant(session, "group-once", now=NOW)) is True
    assert commits.run(lambda session: ensure_tenant(session, "group-once", now=NOW)) is False


def test_an_error_of_the_database_reaches_every_writer_of_the_group(database: Database) -> None:
    commits = GroupCommit(database)
    with pytest.raises(Exception, match="no_such_table"):
        commits.run(lambda session: session.execute(text("SELECT * FROM no_such_table")))
    assert commits.run(lambda session: ensure_tenant(session, "group-after", now=NOW)) is True
