"""Listing live migrations of jobs and their rounds."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from sllm_tasks.ledger.pages import Page, PageRequest, read_page
from sllm_tasks.ledger.tables import MigrationRoundRow, MigrationRow


def list_migrations(session: Session, request: PageRequest, *, job_id: str | None = None) -> Page[MigrationRow]:
    """List migrations, of one job only if given."""
    query = select(MigrationRow).execution_options(populate_existing=True)
    if job_id is not None:
        query = query.where(MigrationRow.job_id == job_id)
    return read_page(session, query, MigrationRow.id, request)


def rounds_of(session: Session, migration_ids: Collection[str]) -> Mapping[str, list[MigrationRoundRow]]:
    """Read the rounds of some migrations, first to last."""
    query = (
        select(MigrationRoundRow)
        .where(MigrationRoundRow.migration_id.in_(migration_ids))
        .order_by(MigrationRoundRow.migration_id, MigrationRoundRow.round)
    )
    rounds: dict[str, list[MigrationRoundRow]] = {migration_id: [] for migration_id in migration_ids}
    for row in session.scalars(query):
        rounds[row.migration_id].append(row)
    return rounds
