"""`/api/v1/operations`: administrative work that takes a while."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.operations import get_operation, list_operations
from sllm_tasks.ledger.states import ENDED_OPERATION_STATUSES
from webapp.admin_changes import AdminChanges, Started
from webapp.admin_json import operation_json
from webapp.auth import caller, requires
from webapp.incoming import page_request, read_query
from webapp.outgoing import list_json, replayed
from webapp.schemas.jobs import OperationsQuery
from webapp.services import services

blueprint = Blueprint("operations", __name__, url_prefix="/api/v1/operations")


@blueprint.get("/<operation_id>")
@requires(Scope.ADMIN_READ)
def get_one(operation_id: str) -> Response:
    """Read how far an operation is."""
    with services().ledger.reading() as session:
        row = get_operation(session, operation_id)
    response = jsonify(operation_json(row))
    if row.status not in ENDED_OPERATION_STATUSES:
        response.headers["Retry-After"] = "1"
    return response


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_operations() -> Response:
    """List operations."""
    with services().ledger.reading() as session:
        page = list_operations(session, page_request(read_query(OperationsQuery)))
    return jsonify(list_json([operation_json(row) for row in page.rows], has_more=page.has_more))


@blueprint.post("/<operation_id>/cancel")
@requires(Scope.ADMIN_WRITE)
def cancel(operation_id: str) -> Response:
    """Give an operation up; whoever runs it stops within seconds. One that has ended stays as it is."""
    row = AdminChanges(services().ledger, caller()).cancel_operation(operation_id)
    services().live.operations.revoke(operation_id)
    return jsonify(operation_json(row))


def started(what: Started) -> Response:
    """Answer a request that has started an operation."""
    row = what.operation
    response = jsonify(operation_json(row))
    response.status_code = HTTPStatus.ACCEPTED
    response.headers["Location"] = f"/api/v1/operations/{row.id}"
    response.headers["Retry-After"] = "1"
    return response if what.is_new else replayed(response)
