"""`/api/v1/nodes`: the servers, their gpus and what is loaded there, from the live state."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from webapp.admin_json import nodes_json
from webapp.auth import requires
from webapp.outgoing import list_json
from webapp.services import services

blueprint = Blueprint("nodes", __name__, url_prefix="/api/v1/nodes")


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_nodes() -> Response:
    """List all nodes."""
    return jsonify(list_json(nodes_json(services().live)))
