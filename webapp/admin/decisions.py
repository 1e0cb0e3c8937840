"""The router's decisions: what it chose, what else it could have, and how right its predictions were."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from flask import Response, request

from sllm_tasks.ledger.decisions import list_decisions
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import Role
from sllm_tasks.ledger.tables import DecisionRow
from webapp.admin.access import needs
from webapp.admin.blueprint import blueprint
from webapp.admin.pages import Context, page
from webapp.outgoing import time_json
from webapp.services import services

_PAGE: Final = 50
#: As many of the last ones make the picture.
_NUM_POINTS: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A prediction and what came of it, in percent of the picture's sides."""

    path: str
    x: float
    y: float


@blueprint.get("/decisions")
@needs(Role.VIEWER)
def decisions() -> Response:
    """List decisions, newest first."""
    return page("decisions", _context)


def _context() -> Context:
    after = request.args.get("after")
    with services().ledger.reading() as session:
        found = list_decisions(session, PageRequest(limit=_PAGE, after=after))
        recent = list_decisions(session, PageRequest(limit=_NUM_POINTS)).rows
    known = [row for row in recent if row.predicted_s is not None and row.actual_s is not None]
    largest = max((max(row.predicted_s or 0, row.actual_s or 0) for row in known), default=0.0)
    errors = [abs((row.predicted_s or 0) - (row.actual_s or 0)) for row in known]
    return {
        "decisions": found.rows,
        "next_after": found.rows[-1].id if found.has_more else None,
        "points": _points(known, largest),
        "largest_s": largest,
        "median_error_s": statistics.median(errors) if errors else None,
        "time_json": time_json,
    }


def _points(rows: Sequence[DecisionRow], largest: float) -> list[Point]:
    if largest <= 0:
        return []
    return [
        Point(path=row.path, x=100 * (row.predicted_s or 0) / largest, y=100 - 100 * (row.actual_s or 0) / largest)
        for row in rows
    ]
