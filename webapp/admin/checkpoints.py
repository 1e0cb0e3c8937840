"""Checkpoints: the inventory, where copies are, verifying one."""

from __future__ import annotations

from flask import Response, request

from sllm_tasks.ledger.operations import list_operations
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import OperationStatus, Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import form_request
from webapp.admin.pages import Context, page
from webapp.admin_changes import AdminChanges
from webapp.admin_json import AdminJson, operation_json
from webapp.admin_lists import checkpoints_now, placements_now
from webapp.api.nodes import checked_name
from webapp.services import services


@blueprint.get("/checkpoints")
@needs(Role.VIEWER)
def checkpoints() -> Response:
    """List checkpoints and the operations that work on them."""
    return page("checkpoints", _context)


@blueprint.post("/checkpoints/<digest>/verify")
@needs(Role.OPERATOR)
def verify(digest: str) -> Response:
    """Read a node's copy and compare it with its digests."""
    changes = AdminChanges(services().ledger, person(), form_request(person().tenant))
    started = changes.verify_checkpoint(digest, checked_name(request.form.get("node", "")))
    return see_other("operation", operation_id=started.operation.id)


def _context() -> Context:
    web = services()
    open_statuses = frozenset({OperationStatus.PENDING, OperationStatus.RUNNING})
    with web.ledger.reading() as session:
        working = list_operations(session, PageRequest(limit=20), statuses=open_statuses).rows
    copies: dict[object, list[AdminJson]] = {}
    for placement in placements_now(web, None, None):
        if placement["actual"] is not None:
            copies.setdefault(placement["checkpoint"], []).append(placement)
    return {
        "checkpoints": checkpoints_now(web),
        "copies": copies,
        "operations": [operation_json(row) for row in working],
    }
