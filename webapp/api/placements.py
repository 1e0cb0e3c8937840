"""`/api/v1/placements`: where checkpoints should be and are."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.placements import list_placements
from webapp.admin_changes import AdminChanges
from webapp.admin_json import placement_json
from webapp.auth import caller, requires
from webapp.incoming import read_body
from webapp.outgoing import list_json
from webapp.schemas.admin import PlacementRequest
from webapp.services import services

blueprint = Blueprint("placements", __name__, url_prefix="/api/v1/placements")


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_placements() -> Response:
    """List all placements."""
    with services().ledger.reading() as session:
        data = [placement_json(row) for row in list_placements(session)]
    return jsonify(list_json(data))


@blueprint.put("/<checkpoint>/<node>")
@requires(Scope.ADMIN_WRITE)
def put_one(checkpoint: str, node: str) -> Response:
    """Want a checkpoint on a node's SSD; the reconciler brings it there."""
    AdminChanges(services().ledger, caller()).want_placement(checkpoint, node, read_body(PlacementRequest))
    with services().ledger.reading() as session:
        (row,) = list_placements(session, checkpoint=checkpoint, node=node)
    response = jsonify(placement_json(row))
    response.status_code = HTTPStatus.ACCEPTED
    return response
