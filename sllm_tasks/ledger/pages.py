"""Pages of a listing, by key and never by offset, so that rows which arrive meanwhile shift nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute, Session

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which part of a listing; ids sort by the time they were made in."""

    limit: int = 20
    #: The last id of the page before.
    after: str | None = None
    newest_first: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[_Row]):
    """A part of a listing."""

    rows: tuple[_Row, ...]
    has_more: bool


def read_page(
    session: Session,
    # Any: a Select is generic over the columns that it was built from.
    query: Select[Any],
    key: InstrumentedAttribute[str],
    request: PageRequest,
) -> Page[Any]:
    """Run `query`, which selects one entity, for one page in the order of `key`."""
    if request.after is not None:
        query = query.where(key < request.after if request.newest_first else key > request.after)
    query = query.order_by(key.desc() if request.newest_first else key).limit(request.limit + 1)
    rows = tuple(session.scalars(query))
    return Page(rows=rows[: request.limit], has_more=len(rows) > request.limit)
