"""Alembic's entry: run revisions on the connection that `sllm_tasks.ledger.schema` opened and locked."""

from __future__ import annotations

from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import Enum
from sqlalchemy.types import TypeDecorator

from sllm_tasks.ledger.tables import Base


def _render_plain(kind: str, item: object, _context: AutogenContext) -> str | Literal[False]:
    """Write our column types as the SQL types behind them: a revision must not change when the code does."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl_instance!r}"
    if kind == "type" and isinstance(item, Enum) and not item.create_constraint:
        return f"sa.String(length={item.length})"
    return False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    # SQLite cannot alter a table; Alembic then makes a new one and copies.
    render_as_batch=connection.dialect.name == "sqlite",
    render_item=_render_plain,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
