"""`/api/v1/placements`: where checkpoints should be and are."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from webapp.admin_changes import AdminChanges
from webapp.admin_json import proposal_json
from webapp.admin_lists import placements_now, proposals_now
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


@blueprint.get("/proposals")
@requires(Scope.ADMIN_READ)
def get_proposals() -> Response:
    """List placements that should change, by how often models were asked for in the last day."""
    return jsonify(list_json(proposals_now(services())))


@blueprint.post("/proposals")
@requires(Scope.ADMIN_WRITE)
def apply_proposals() -> Response:
    """Want what is proposed; the answer is what that was."""
    web = services()
    nodes = web.live.fleet.nodes(web.live.now_ms())
    found = AdminChanges(web.ledger, caller()).apply_proposals(nodes, ssd_copies=web.settings.ssd_copies)
    return jsonify(list_json([proposal_json(each) for each in found]))


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
