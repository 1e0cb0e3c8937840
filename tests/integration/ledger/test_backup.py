"""Backup and restore of a ledger: whole, private, made while it is in use, never put under a process that works."""

from __future__ import annotations

import shlex
import stat
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from re import findall

import pytest

from sllm_tasks.errors import ConfigError, ConflictError, UnavailableError
from sllm_tasks.ledger import jobs, schema
from sllm_tasks.ledger.backup import back_up, restore
from sllm_tasks.ledger.database import Database
from tests.integration.ledger.factories import add_job
from tests.support.postgres import PostgresServer

_HOW_TO = Path(__file__).parents[3] / "docs" / "how-to" / "back-up-the-ledger.md"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A ledger in SQLite, upgraded and not in use."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    schema.upgrade(url)
    return url


def _add(url: str) -> str:
    with closing(Database(url)) as ledger, ledger.transaction() as session:
        return add_job(session)


def _has(url: str, job_id: str) -> bool:
    with closing(Database(url)) as ledger, ledger.reading() as session:
        return jobs.get_job(session, job_id) is not None


def test_a_ledger_becomes_what_it_was_and_the_backup_is_for_nobody_else(url: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    before = _add(url)
    back_up(url, copy)
    after = _add(url)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    restore(url, copy)
    assert (_has(url, before), _has(url, after)) == (True, False)
    assert schema.check(url) == ()


def test_a_lost_ledger_is_made_anew_from_its_backup(url: str, tmp_path: Path) -> None:
    job_id = _add(url)
    back_up(url, tmp_path / "copy.db")
    elsewhere = f"sqlite:///{tmp_path / 'new.db'}"
    restore(elsewhere, tmp_path / "copy.db")
    assert _has(elsewhere, job_id)


def test_a_backup_is_made_while_jobs_are_accepted_and_holds_all_that_were_before_it(url: str, tmp_path: Path) -> None:
    done, accepted = threading.Event(), [_add(url)]

    def accept() -> None:
        with closing(Database(url)) as ledger:
            while not done.is_set():
                with ledger.transaction() as session:
                    job_id = add_job(session)
                # Not before it is committed: until then it may be in no copy.
                accepted.append(job_id)

    writer = threading.Thread(target=accept)
    writer.start()
    try:
        before = list(accepted)
        back_up(url, tmp_path / "copy.db")
    finally:
        done.set()
        writer.join()
    restored = f"sqlite:///{tmp_path / 'new.db'}"
    restore(restored, tmp_path / "copy.db")
    assert all(_has(restored, job_id) for job_id in before)
    assert schema.check(restored) == ()


def test_a_file_that_is_there_is_not_written_over(url: str, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine")
    with pytest.raises(ConflictError, match=r"copy\.db is there already"):
        back_up(url, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "mine"
    assert not list(tmp_path.glob(".copy*"))


def test_no_ledger_is_backed_up_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        back_up(f"sqlite:///{tmp_path / 'nothing.db'}", tmp_path / "copy.db")
    assert not list(tmp_path.iterdir())


def test_nothing_is_put_under_a_process_that_has_the_ledger_open(url: str, tmp_path: Path) -> None:
    back_up(url, tmp_path / "copy.db")
    with closing(Database(url)) as ledger:
        with ledger.transaction() as session:
            job_id = add_job(session)
        with pytest.raises(ConflictError, match="in use"):
            restore(url, tmp_path / "copy.db")
    assert _has(url, job_id)


def test_what_is_no_sound_ledger_of_this_version_or_before_is_refused(url: str, tmp_path: Path) -> None:
    job_id = _add(url)
    copy = tmp_path / "copy.db"
    for content in (b"", b"no database", b"SQLite format 3\0" + bytes(4000)):
        copy.write_bytes(content)
        with pytest.raises(ConfigError):
            restore(url, copy)
    copy.unlink()
    back_up(url, copy)
    changed = Database(f"sqlite:///{copy}")
    for change, why in (
        ("UPDATE alembic_version SET version_num = '9999'", "revision 9999"),
        ("DELETE FROM alembic_version", "at no revision"),
    ):
        with changed.transaction() as session:
            session.connection().exec_driver_sql(change)
        with pytest.raises(ConfigError, match=why):
            restore(url, copy)
    changed.close()
    assert _has(url, job_id)


def test_postgresql_is_left_to_its_own_tools(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pg_dump"):
        back_up("postgresql://localhost/ledger", tmp_path / "copy.db")


def test_the_commands_for_postgresql_in_the_how_to_do_what_it_says(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    (block,) = findall(r"```sh\n([^`]*pg_dump[^`]*)```", _HOW_TO.read_text(encoding="utf-8"))
    dump, load = block.strip().splitlines()
    with postgres_server.database("backed_up") as source, postgres_server.database("restored") as target:
        schema.upgrade(source)
        job_id = _add(source)
        for line, url in ((dump, source), (load, target)):
            command = line.replace("ledger.dump", str(tmp_path / "dump")).replace("$DATABASE", url)
            subprocess.run(shlex.split(command), check=True, timeout=60)
        assert schema.check(target) == ()
        assert _has(target, job_id)
