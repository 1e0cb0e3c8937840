"""`/api/v1/checkpoints`: what is stored, and what can be asked about it."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from webapp.admin_changes import AdminChanges
from webapp.admin_lists import checkpoints_now
from webapp.api.operations import started
from webapp.auth import caller, requires
from webapp.incoming import keyed_request, read_body
from webapp.outgoing import list_json
from webapp.schemas.admin import VerifyRequest
from webapp.services import services

blueprint = Blueprint("checkpoints", __name__, url_prefix="/api/v1/checkpoints")


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_checkpoints() -> Response:
    """List all checkpoints."""
    return jsonify(list_json(checkpoints_now(services())))


@blueprint.post("/<checkpoint>/verify")
@requires(Scope.ADMIN_WRITE)
def verify(checkpoint: str) -> Response:
    """Read all of a node's copy; one that is damaged is put aside, and fetched again if it is wanted there."""
    changes = AdminChanges(services().ledger, caller(), keyed_request(caller().tenant))
    return started(changes.verify_checkpoint(checkpoint, read_body(VerifyRequest).node))
