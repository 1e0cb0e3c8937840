"""Operations: administrative work that takes a while, and how far it is."""

from __future__ import annotations

from typing import Final

from flask import Response, request

from sllm_tasks.ledger.operations import get_operation, list_operations
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import OperationStatus, Role
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.pages import Context, page
from webapp.admin_changes import AdminChanges
from webapp.admin_json import operation_json
from webapp.services import services

_PAGE: Final = 50


@blueprint.get("/operations")
@needs(Role.VIEWER)
def operations() -> Response:
    """List operations, newest first."""
    return page("operations", _context)


@blueprint.get("/operations/<operation_id>")
@needs(Role.VIEWER)
def operation(operation_id: str) -> Response:
    """Show one operation."""
    return page("operation", lambda: _one(operation_id))


@blueprint.post("/operations/<operation_id>/cancel")
@needs(Role.OPERATOR)
def cancel_operation(operation_id: str) -> Response:
    """Give an operation up."""
    AdminChanges(services().ledger, person()).cancel_operation(operation_id)
    services().live.operations.revoke(operation_id)
    return see_other("operation", operation_id=operation_id, notice="operation_canceled")


def _context() -> Context:
    status = request.args.get("status", "")
    wanted = frozenset({OperationStatus(status)} if status in set(OperationStatus) else ())
    asked = PageRequest(limit=_PAGE, after=request.args.get("after"))
    with services().ledger.reading() as session:
        found = list_operations(session, asked, target=request.args.get("target") or None, statuses=wanted)
    return {
        "operations": [operation_json(row) for row in found.rows],
        "next_after": found.rows[-1].id if found.has_more else None,
        "status": status,
        "statuses": list(OperationStatus),
    }


def _one(operation_id: str) -> Context:
    with services().ledger.reading() as session:
        row = get_operation(session, operation_id)
    return {"operation": operation_json(row), "args": row.args}
