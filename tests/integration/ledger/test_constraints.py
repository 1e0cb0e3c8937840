"""Rows that make no sense cannot be written, whoever writes them."""

from __future__ import annotations

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import Session

from sllm_tasks.ledger import inventory, jobs
from sllm_tasks.ledger.database import Database, IllegalRowError
from sllm_tasks.ledger.tables import JobRow
from tests.integration.ledger.factories import DEPLOYED, NOW, add_job, make_checkpoint, make_job, make_model, success


@pytest.mark.parametrize(
    "change",
    [
        "status = 'nonsense'",
        "status = 'succeeded'",
        f"ended_at = '{NOW:%Y-%m-%d %H:%M:%S}+00'",
        f"purged_at = '{NOW:%Y-%m-%d %H:%M:%S}+00'",
        "priority = 10",
        "attempt = 0",
        "job_class = 'urgent'",
        "group_id = 'group_1'",
        "messages = '[]'",
        "completion_tokens = -1",
        "tenant = 'nobody'",
        "prompt_ids = NULL",
    ],
)
def test_an_illegal_job_is_refused_by_the_database(database: Database, change: str) -> None:
    with database.transaction() as session:
        add_job(session)
    with pytest.raises(IllegalRowError), database.transaction() as session:
        session.execute(text(f"UPDATE jobs SET {change}"))


@pytest.mark.parametrize(
    "change", ["finish_reason = NULL", "ended_at = NULL", "expires_at = NULL", "error_code = 'poison'"]
)
def test_a_succeeded_job_cannot_lose_what_makes_it_one(database: Database, change: str) -> None:
    with database.transaction() as session:
        jobs.end_job(session, success(add_job(session)))
    with pytest.raises(IllegalRowError), database.transaction() as session:
        session.execute(text(f"UPDATE jobs SET {change}"))


@pytest.mark.parametrize(
    "change",
    ["state = 'ready'", "state = 'failed'", "min_replicas = 5", "num_gpus = 0", "checkpoint = 'sha256:unknown'"],
)
def test_an_illegal_model_is_refused_by_the_database(database: Database, change: str) -> None:
    with database.transaction() as session:
        inventory.put_model(session, make_model(), deployment="op_1", now=NOW)
    with pytest.raises(IllegalRowError), database.transaction() as session:
        session.execute(text(f"UPDATE models SET {change}"))


def test_an_attempt_of_no_job_is_refused(database: Database) -> None:
    columns = "job_id, attempt, node, gpus, worker_id, replica_id, start_kind, started_at, num_tokens"
    values = f"'job_unknown', 1, 'n0', '[0]', 'w', 'r', 'warm', '{NOW:%Y-%m-%d %H:%M:%S}+00', 0"
    with pytest.raises(IllegalRowError), database.transaction() as session:
        session.execute(text(f"INSERT INTO job_attempts ({columns}) VALUES ({values})"))


def test_a_checkpoint_in_use_cannot_be_deleted_behind_the_ledgers_back(database: Database) -> None:
    with database.transaction() as session:
        inventory.add_checkpoint(session, make_checkpoint())
        inventory.put_model(session, make_model(), deployment="op_1", now=NOW)
        inventory.note_deployed(session, make_model(), DEPLOYED, deployment="op_1", now=NOW)
    with pytest.raises(IllegalRowError), database.transaction() as session:
        session.execute(text("DELETE FROM checkpoints"))


def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    def _deadline(session: Session) -> None:
        session.execute(update(JobRow).values(deadline_at=NOW.replace(tzinfo=None)))

    with database.transaction() as session:
        add_job(session, make_job())
        with pytest.raises(StatementError, match="time zone"):
            _deadline(session)
