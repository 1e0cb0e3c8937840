from __future__ import annotations

import sqlite3
import stat
import threading
import traceback
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sllm_tasks.errors import ConfigError, ConflictError, UnavailableError
from sllm_tasks.ledger import jobs, schema
from sllm_tasks.ledger.database import Database, IllegalRowError
from tests.integration.ledger.factories import NOW, TENANT, add_job, make_job
from tests.support.postgres import PostgresServer


def _count(database: Database) -> int:
    with database.reading() as session:
        return jobs.count_active(session, TENANT)


@pytest.fixture
def sqlite_path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


def test_an_sqlite_ledger_is_closed_to_others_also_where_it_was_open_before(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    path.touch()
    path.chmod(0o644)
    schema.upgrade(f"sqlite:///{path}")
    with sqlite3.connect(path) as held:
        held.execute("SELECT 1 FROM jobs").fetchall()
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    held.close()
    assert set(modes.values()) == {0o600}, modes


def test_a_transaction_that_raises_changes_nothing(database: Database) -> None:
    def _accept_twice(session: Session) -> None:
        new = make_job()
        add_job(session, new)
        jobs.insert_job(session, new)

    with pytest.raises(ConflictError), database.transaction() as session:
        _accept_twice(session)
    assert _count(database) == 0


def test_a_reading_session_changes_nothing(database: Database) -> None:
    with database.reading() as session:
        add_job(session)
    assert _count(database) == 0


def test_rows_stay_readable_after_their_transaction(database: Database) -> None:
    with database.transaction() as session:
        row = jobs.get_job(session, add_job(session))
    assert row is not None
    assert row.user_metadata == {"a": "b"}
    assert repr(row) == f"<jobs {row.id}>"


def test_instants_come_back_in_utc_whatever_their_zone_was(database: Database) -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=-9)))
    with database.transaction() as session:
        job_id = add_job(session)
        jobs.note_started(session, job_id, attempt=1, at=elsewhere, assignment={})
    with database.reading() as session:
        row = jobs.get_job(session, job_id)
        assert row is not None
        assert row.started_at == NOW
        assert isinstance(row.started_at, datetime)
        assert row.started_at.utcoffset() == timedelta(0)


def test_readers_do_not_wait_for_a_writer(database: Database) -> None:
    with database.transaction() as session:
        add_job(session)
        assert _count(database) == 0


def test_a_wrong_statement_is_not_mistaken_for_an_outage(database: Database) -> None:
    with pytest.raises(SQLAlchemyError), database.reading() as session:
        session.execute(text("SELECT * FROM nowhere"))


def test_prompts_are_not_in_error_messages(database: Database) -> None:
    with pytest.raises(IllegalRowError, match="one_input") as caught, database.transaction() as session:
        add_job(session, make_job(prompt="my secret", messages=[{"content": "my secret"}]))
    assert "my secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "nonsense"])
def test_a_url_that_the_ledger_cannot_be_kept_in_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        Database(url)


def test_a_password_is_not_shown() -> None:
    database = Database("postgresql://me:hunter2@/name?host=/nowhere")
    assert "hunter2" not in repr(database)
    database.close()


def test_a_database_that_another_process_has_locked_is_unavailable(sqlite_path: Path) -> None:
    database = Database(f"sqlite:///{sqlite_path}", timeout_s=0.05)
    with sqlite3.connect(sqlite_path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError), database.transaction() as session:
            add_job(session)
        other.execute("ROLLBACK")
    other.close()
    with database.transaction() as session:
        add_job(session)
    assert _count(database) == 1
    database.close()


def test_a_writer_that_does_not_finish_makes_the_next_one_unavailable(sqlite_path: Path) -> None:
    database = Database(f"sqlite:///{sqlite_path}", timeout_s=0.05)
    begun, finish = threading.Event(), threading.Event()

    def _write_slowly() -> None:
        with database.transaction() as session:
            add_job(session)
            begun.set()
            finish.wait(timeout=30)

    slow = threading.Thread(target=_write_slowly)
    slow.start()
    begun.wait(timeout=30)
    with pytest.raises(UnavailableError), database.transaction() as session:
        add_job(session)
    finish.set()
    slow.join()
    assert _count(database) == 1
    database.close()


def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'missing' / 'ledger.db'}")
    with pytest.raises(UnavailableError), database.reading() as session:
        jobs.count_active(session, TENANT)
    database.close()


def test_sqlite_commits_reach_the_disk_before_they_are_acknowledged(sqlite_path: Path) -> None:
    database = Database(f"sqlite:///{sqlite_path}")
    with database.reading() as session:
        settings = {
            name: session.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    database.close()


def test_a_statement_that_takes_too_long_is_unavailable(postgres_server: PostgresServer) -> None:
    database = Database(postgres_server.url("postgres"), timeout_s=0.1)
    with pytest.raises(UnavailableError), database.reading() as session:
        session.execute(text("SELECT pg_sleep(10)"))
    database.close()


def test_a_server_that_was_closed_for_writing_is_unavailable(postgres_server: PostgresServer) -> None:
    with postgres_server.database("read_only") as url:
        schema.upgrade(url)
        postgres_server.execute("ALTER DATABASE read_only SET default_transaction_read_only = on")
        database = Database(url)
        with pytest.raises(UnavailableError), database.transaction() as session:
            add_job(session)
        database.close()


def test_the_ledger_works_again_as_soon_as_its_server_does(postgres_server: PostgresServer) -> None:
    with postgres_server.database("restarted") as url:
        schema.upgrade(url)
        database = Database(url)
        with database.transaction() as session:
            add_job(session)
        postgres_server.stop()
        with pytest.raises(UnavailableError):
            _count(database)
        postgres_server.start()
        assert _count(database) == 1, "the pool notices that its connections are dead"
        database.close()


def test_a_connection_that_is_killed_in_the_middle_undoes_its_transaction(postgres_server: PostgresServer) -> None:
    with postgres_server.database("killed") as url:
        schema.upgrade(url)
        database = Database(url)

        def _lose_connection(session: Session) -> None:
            add_job(session)
            backend = session.scalar(text("SELECT pg_backend_pid()"))
            postgres_server.execute(f"SELECT pg_terminate_backend({backend}, 5000)")

        with pytest.raises(UnavailableError), database.transaction() as session:
            _lose_connection(session)
        assert _count(database) == 0
        database.close()
