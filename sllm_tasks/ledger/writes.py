"""Writes that a race may decide; the database tells who won, never a look beforehand."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Delete, Update, UpdateBase, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from sllm_tasks.ledger.columns import Base

#: Objects of the session keep what they were read with; whoever wants the new row reads it again.
AS_READ = {"synchronize_session": False}


def insert_if_absent(session: Session, row_class: type[Base], values: Mapping[str, object]) -> bool:
    """Insert a row by attribute names unless one of its unique keys is taken; False if it was.

    Waits for a transaction that is about to take the same key, so that after False its row can be read.
    """
    make = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    key = row_class.__mapper__.primary_key[0]
    statement = make(row_class).values(values).on_conflict_do_nothing().returning(key)
    return session.execute(statement).first() is not None


def took_place(session: Session, change: Update | Delete) -> bool:
    """Perform a conditional change; False if no row met its condition."""
    statement: UpdateBase = change.returning(literal_column("1"))
    return session.execute(statement, execution_options=AS_READ).first() is not None
