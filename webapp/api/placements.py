"""`/api/v1/placements`: where checkpoints should be and are."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.placement_progress import PlacementProgress, placement_progress
from sllm_tasks.ledger.placements import is_met, list_placements
from webapp.admin_changes import AdminChanges
from webapp.admin_json import AdminJson, placement_json
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
    return jsonify(list_json(_placements(query.checkpoint, query.node)))


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
    (shown,) = _placements(checkpoint, node)
    response = jsonify(shown)
    response.status_code = HTTPStatus.ACCEPTED
    return response


def _placements(checkpoint: str | None, node: str | None) -> list[AdminJson]:
    live = services().live
    alive = {each.name for each in live.fleet.nodes(live.now_ms())}
    with services().ledger.reading() as session:
        rows = list_placements(session, checkpoint=checkpoint, node=node)
        progress = placement_progress(session, [row for row in rows if not is_met(row)], datetime.now(UTC))
    done = PlacementProgress()
    return [
        placement_json(row, progress.get((row.checkpoint, row.node), done), is_alive=row.node in alive) for row in rows
    ]
