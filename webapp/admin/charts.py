"""How the cluster was doing: jobs, starts, loads and predictions over time, from what the ledger has kept."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Final

from flask import Response, render_template, request

from sllm_tasks.ledger.history import job_lives, predictions
from sllm_tasks.ledger.loads import recent_loads
from sllm_tasks.ledger.states import Role
from webapp.admin.access import needs
from webapp.admin.blueprint import blueprint
from webapp.admin.series import jobs_chart, loads_chart, make_grid, predictions_chart, starts_chart
from webapp.outgoing import time_json
from webapp.services import services

_WINDOWS: Final[Mapping[str, timedelta]] = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
}
_NUM_INTERVALS: Final = 60
#: A window of more jobs shows the latest ones, and says so.
_MAX_JOBS: Final = 20_000
#: Jobs that came before the window may wait or run in it.
_BEFORE: Final = timedelta(hours=1)


@blueprint.get("/charts")
@needs(Role.VIEWER)
def charts() -> Response:
    """Show the charts of a window; not live, because a second changes nothing in them."""
    window = request.args.get("window", "1h")
    length = _WINDOWS.get(window, _WINDOWS["1h"])
    now = datetime.now(UTC)
    grid, since = make_grid(now, length, _NUM_INTERVALS), now - length
    with services().ledger.reading() as session:
        lives = job_lives(session, since=since - _BEFORE, limit=_MAX_JOBS)
        loads = recent_loads(session, since=since)
        predicted = predictions(session, since=since, limit=_MAX_JOBS)
    shown = render_template(
        "admin/charts.html",
        charts=[
            jobs_chart(lives, grid),
            starts_chart(lives, grid),
            loads_chart(loads, grid),
            predictions_chart(predicted, grid),
        ],
        times=[time_json(at) for at in grid],
        windows=list(_WINDOWS),
        window=window,
        max_jobs=_MAX_JOBS if len(lives) == _MAX_JOBS else None,
    )
    return Response(shown, HTTPStatus.OK)
