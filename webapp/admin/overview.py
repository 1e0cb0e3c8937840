"""The overview: nodes, gpus and tiers, what waits, and how fast jobs have started of late."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from flask import Response

from sllm_tasks.ledger.decisions import list_decisions
from sllm_tasks.ledger.operations import list_operations
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import OperationStatus, Role
from sllm_tasks.ledger.tables import DecisionRow
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.pages import Context, page
from webapp.admin_changes import AdminChanges
from webapp.admin_json import operation_json
from webapp.admin_lists import models_now, nodes_now, queues_now
from webapp.api.nodes import checked_name
from webapp.queue_gates import move_gate
from webapp.services import services

#: As many of the last starts make the percentiles.
_NUM_STARTS = 100


@blueprint.get("")
@blueprint.get("/", alias=True)
@needs(Role.VIEWER)
def overview() -> Response:
    """Show the cluster."""
    return page("overview", _context)


@blueprint.post("/nodes/<node>/calibrate")
@needs(Role.OPERATOR)
def calibrate(node: str) -> Response:
    """Measure what the tiers of a node deliver."""
    started = AdminChanges(services().ledger, person()).calibrate_node(checked_name(node))
    return see_other("operation", operation_id=started.operation.id)


@blueprint.post("/queues/<path:name>/<any(pause, resume):verb>")
@needs(Role.OPERATOR)
def move_queue(name: str, verb: str) -> Response:
    """Hold the jobs of a queue back, or let them go."""
    web, paused = services(), verb == "pause"
    changes = AdminChanges(web.ledger, person())
    if paused:
        changes.pause_queue(name)
    else:
        changes.resume_queue(name)
    move_gate(web, name, paused=paused)
    return see_other("overview", notice="paused" if paused else "resumed")


def _context() -> Context:
    web = services()
    open_statuses = frozenset({OperationStatus.PENDING, OperationStatus.RUNNING})
    with web.ledger.reading() as session:
        working = list_operations(session, PageRequest(limit=5), statuses=open_statuses).rows
        decided = list_decisions(session, PageRequest(limit=_NUM_STARTS)).rows
    nodes = nodes_now(web)
    return {
        "nodes": nodes,
        "queues": queues_now(web),
        "models": models_now(web),
        "operations": [operation_json(row) for row in working],
        "warm": _percentiles(row for row in decided if row.path == "warm"),
        "cold": _percentiles(row for row in decided if row.path.startswith("load_")),
    }


def _percentiles(decided: Iterable[DecisionRow]) -> dict[str, float | int | None]:
    starts = sorted(row.actual_s for row in decided if row.actual_s is not None)
    if not starts:
        return {"num": 0, "p50_s": None, "p95_s": None}
    return {
        "num": len(starts),
        "p50_s": statistics.median(starts),
        "p95_s": starts[min(len(starts) - 1, int(len(starts) * 0.95))],
    }
