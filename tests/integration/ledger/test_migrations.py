"""Moves of jobs in the ledger: entered once, brought up to date until they end, with their rounds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from sllm_tasks.cluster import GpuId
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.migrations import (
    MigrationReport,
    RoundReport,
    add_round,
    list_migrations,
    note_migration,
    rounds_of,
)
from sllm_tasks.migration.states import MigrationState
from tests.integration.ledger.factories import NOW, add_job


def planned(job_id: str) -> MigrationReport:
    return MigrationReport(
        id="migration_1",
        job_id=job_id,
        attempt=1,
        reason="operator",
        state=MigrationState.PLANNED,
        source_replica_id="replica_1",
        source_gpus=(GpuId("node0", 0),),
        target_replica_id="replica_2",
        target_gpus=(GpuId("node1", 2), GpuId("node1", 3)),
        reserved_bytes=5,
        predicted_s=None,
        predicted_pause_s=None,
        batch=2,
        num_bytes=100,
        pause_ms=None,
        error=None,
        created_at=NOW,
        ended_at=None,
    )


def test_a_migration_is_brought_up_to_date_until_it_ends_and_not_after(database: Database) -> None:
    with database.transaction() as session:
        begun = planned(add_job(session))
        note_migration(session, begun)
        note_migration(session, replace(begun, state=MigrationState.CATCHING_UP))
        ended = replace(begun, state=MigrationState.SUCCEEDED, pause_ms=21, ended_at=NOW + timedelta(seconds=1))
        note_migration(session, ended)
        # A report that control has read twice.
        note_migration(session, replace(begun, state=MigrationState.CATCHING_UP))
    with database.reading() as session:
        (row,) = list_migrations(session, job_id=begun.job_id)
        assert (row.state, row.pause_ms, row.ended_at) == (MigrationState.SUCCEEDED, 21, ended.ended_at)
        assert (row.target_node, row.target_gpus) == ("node1", [2, 3])


def test_rounds_are_kept_in_order_and_once(database: Database) -> None:
    with database.transaction() as session:
        note_migration(session, planned(add_job(session)))
        for number in (2, 1, 2):
            add_round(
                session,
                RoundReport(migration_id="migration_1", round=number, num_tokens=7, seconds=0.1, at=NOW),
            )
    with database.reading() as session:
        assert [each.round for each in rounds_of(session, ["migration_1"])["migration_1"]] == [1, 2]
