"""`/api/v1/placements`: where checkpoints should be and are."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from webapp.admin_changes import AdminChanges
from webapp.admin_lists import placements_now
from webapp.api.nodes import checked_name
from webapp.auth import caller, requires
from webapp.incoming import read_body, read_query
from webapp.outgoing import list_json
from webapp.schemas.admin import PlacementRequest, PlacementsQuery
from webapp.services import services

blueprint = Blueprint("placements", __name__, url_prefix="/api/v1/placements")


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_placements() -> Response:
    """List placements, of one checkpoint or node only if given."""
    query = read_query(PlacementsQuery)
    return jsonify(list_json(placements_now(services(), query.checkpoint, query.node)))


@blueprint.put("/<checkpoint>/<node>")
@requires(Scope.ADMIN_WRITE)
def put_one(checkpoint: str, node: str) -> Response:
    """Want a checkpoint in a tier of a node; the reconciler brings it there."""
    return _want(checkpoint, checked_name(node), read_body(PlacementRequest))


@blueprint.delete("/<checkpoint>/<node>")
@requires(Scope.ADMIN_WRITE)
def delete_one(checkpoint: str, node: str) -> Response:
    """Want a checkpoint not to be on a node; the last copy of what a model needs stays all the same."""
    return _want(checkpoint, checked_name(node), None)


def _want(checkpoint: str, node: str, wanted: PlacementRequest | None) -> Response:
    AdminChanges(services().ledger, caller()).want_placement(checkpoint, node, wanted)
    (shown,) = placements_now(services(), checkpoint, node)
    response = jsonify(shown)
    response.status_code = HTTPStatus.ACCEPTED
    return response
