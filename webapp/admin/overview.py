"""The overview: nodes, gpus and tiers, what waits, and how fast jobs have started of late."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from flask import Response, render_template

from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.operations import list_operations
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.start_times import StartTime, recent_starts
from sllm_tasks.ledger.states import OperationStatus, Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.pages import Context, page
from webapp.admin_changes import AdminChanges
from webapp.admin_json import operation_json
from webapp.admin_lists import models_now, nodes_now, queues_now
from webapp.api.nodes import checked_name
from webapp.node_states import drain_gpus, undrain_gpus
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


@blueprint.get("/nodes/<node>/drain")
@needs(Role.OPERATOR)
def ask_drain(node: str) -> Response:
    """Say what draining would do."""
    effects = (
        f"The gpus of {checked_name(node)} take no more work.",
        "What runs there moves to other gpus, or ends there if there is no room elsewhere.",
        "They stay so, whatever restarts, until you take the node back.",
    )
    return Response(render_template("admin/confirm.html", title=f"Drain {node}?", effects=effects, verb="Drain it"))


@blueprint.post("/nodes/<node>/drain")
@needs(Role.OPERATOR)
def drain(node: str) -> Response:
    """Let the gpus of a node take no more work."""
    drain_gpus(services(), person(), checked_name(node))
    return see_other("overview", notice="draining")


@blueprint.post("/nodes/<node>/undrain")
@needs(Role.OPERATOR)
def undrain(node: str) -> Response:
    """Let the gpus of a node take work again."""
    undrain_gpus(services(), person(), checked_name(node))
    return see_other("overview", notice="undrained")


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
        starts = recent_starts(session, limit=_NUM_STARTS)
    nodes = nodes_now(web)
    return {
        "nodes": nodes,
        "queues": queues_now(web),
        "models": models_now(web),
        "operations": [operation_json(row) for row in working],
        "warm": _percentiles(start for start in starts if start.kind is StartKind.WARM),
        "cold": _percentiles(start for start in starts if start.kind is not StartKind.WARM),
    }


def _percentiles(starts: Iterable[StartTime]) -> dict[str, float | int | None]:
    seconds = sorted(start.seconds for start in starts)
    if not seconds:
        return {"num": 0, "p50_s": None, "p95_s": None}
    p95_s = seconds[min(len(seconds) - 1, int(len(seconds) * 0.95))]
    return {"num": len(seconds), "p50_s": statistics.median(seconds), "p95_s": p95_s}
