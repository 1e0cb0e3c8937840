"""What the ledger has kept long enough goes, however much it is, and nobody waits for that."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from sllm_tasks.cluster import Tier
from sllm_tasks.control.housekeeping import Housekeeping
from sllm_tasks.ids import new_id
from sllm_tasks.ledger.columns import Base
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.jobs import end_jobs
from sllm_tasks.ledger.states import DeliveryStatus
from sllm_tasks.ledger.tables import (
    DecisionRow,
    FilePartRow,
    FileRow,
    IdempotencyKeyRow,
    JobRow,
    MeasuredLoadRow,
    WebhookDeliveryRow,
)
from sllm_tasks.livestate import LiveState
from tests.integration.ledger.factories import TENANT, add_job, make_job, success

#: More than one transaction takes away.
MANY = 1001
LONG_AGO = datetime.now(UTC) - timedelta(days=20)


@pytest.fixture
def housekeeping(database: Database, live: LiveState) -> Housekeeping:
    return Housekeeping(database, live)


def left(session: Session, table: type[Base]) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


def add_old(session: Session) -> None:
    """Add many rows of each kind that is past its time."""
    job_id = add_job(session)
    same = {"job_id": job_id, "attempt": 1, "at": LONG_AGO, "path": "warm", "choice": {}, "candidates": []}
    session.execute(insert(DecisionRow), [{**same, "id": f"decision_{i}"} for i in range(MANY)])
    same = {"checkpoint": "c", "node": "n0", "tier": Tier.SSD, "num_bytes": 1, "seconds": 1.0, "at": LONG_AGO}
    session.execute(insert(MeasuredLoadRow), [{**same, "id": f"load_{i}"} for i in range(MANY)])
    same = {"tenant": TENANT, "route": "POST /", "fingerprint": bytes(32), "target_id": job_id}
    keys = [{**same, "key": str(i), "created_at": LONG_AGO, "expires_at": LONG_AGO} for i in range(MANY)]
    session.execute(insert(IdempotencyKeyRow), keys)
    same = {"tenant": TENANT, "job_id": job_id, "event": "e", "url": "u", "status": DeliveryStatus.DELIVERED}
    messages = [{**same, "id": f"msg_{i}", "created_at": LONG_AGO} for i in range(MANY)]
    session.execute(insert(WebhookDeliveryRow), messages)
    same = {"tenant": TENANT, "filename": "f", "purpose": "batch", "created_at": LONG_AGO, "expires_at": LONG_AGO}
    session.execute(insert(FileRow), [{**same, "id": f"file_{i}"} for i in range(21)])
    session.execute(insert(FilePartRow), [{"file_id": f"file_{i}", "part": 0, "content": b"x"} for i in range(21)])


def test_all_that_is_past_its_time_goes_at_once(database: Database, housekeeping: Housekeeping) -> None:
    with database.transaction() as session:
        add_old(session)
    housekeeping.tidy()
    with database.reading() as session:
        for table in (DecisionRow, MeasuredLoadRow, IdempotencyKeyRow, WebhookDeliveryRow, FileRow, FilePartRow):
            assert left(session, table) == 0, table.__tablename__


def test_outputs_of_more_jobs_than_one_transaction_takes_are_forgotten_together(
    database: Database, housekeeping: Housekeeping
) -> None:
    with database.transaction() as session:
        ended = [success(add_job(session, make_job(result_ttl_s=0))) for _ in range(MANY)]
        end_jobs(session, [replace(ending, at=LONG_AGO) for ending in ended])
    housekeeping.tidy()
    with database.reading() as session:
        assert session.scalar(select(func.count()).where(JobRow.purged_at.is_(None))) == 0


def test_what_is_young_stays(database: Database, housekeeping: Housekeeping) -> None:
    with database.transaction() as session:
        same = {"checkpoint": "c", "node": "n0", "tier": Tier.SSD, "num_bytes": 1, "seconds": 1.0}
        session.execute(insert(MeasuredLoadRow), [{**same, "id": new_id("load"), "at": datetime.now(UTC)}])
    housekeeping.tidy()
    with database.reading() as session:
        assert left(session, MeasuredLoadRow) == 1
