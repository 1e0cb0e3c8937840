"""Writes that a race may decide; the database tells who won, never a look beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from sqlalchemy import (
    ColumnElement,
    Delete,
    Executable,
    Update,
    UpdateBase,
    bindparam,
    delete,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from sllm_tasks.ledger.columns import Base

#: Objects of the session keep what they were read with; whoever wants the new row reads it again.
AS_READ = {"synchronize_session": False}


def insert_if_absent(session: Session, row_class: type[Base], values: Mapping[str, object]) -> bool:
    """Insert a row by attribute names unless one of its unique keys is taken; False if it was.

    Waits for a transaction that is about to take the same key, so that after False its row can be read.
    """
    columns = row_class.__mapper__.columns
    statement = _insertion(session.get_bind().dialect.name, row_class, frozenset(values))
    row = {columns[name].name: value for name, value in values.items()}
    return session.connection().execute(statement, row).first() is not None


@cache
def _insertion(dialect: str, row_class: type[Base], names: frozenset[str]) -> Executable:
    """Build the statement once for each set of attributes; building it costs more than running it."""
    columns = row_class.__mapper__.columns
    make = sqlite.insert if dialect == "sqlite" else postgresql.insert
    bound = {columns[name].name: bindparam(columns[name].name, type_=columns[name].type) for name in names}
    key = row_class.__mapper__.primary_key[0]
    return make(row_class.__table__).values(bound).on_conflict_do_nothing().returning(key)  # type: ignore[arg-type] # a Table in fact


def took_place(session: Session, change: Update | Delete) -> bool:
    """Perform a conditional change; False if no row met its condition."""
    statement: UpdateBase = change.returning(literal_column("1"))
    return session.execute(statement, execution_options=AS_READ).first() is not None


def delete_some(session: Session, row_class: type[Base], which: ColumnElement[bool], limit: int) -> int:
    """Delete up to so many of the rows that meet a condition, and return how many that were.

    Of very many at once the last would wait for seconds, and with SQLite everybody who writes meanwhile.
    """
    keys = row_class.__mapper__.primary_key
    some = select(*keys).where(which).limit(limit)
    statement: UpdateBase = delete(row_class).where(tuple_(*keys).in_(some)).returning(literal_column("1"))
    return len(session.execute(statement, execution_options=AS_READ).all())
