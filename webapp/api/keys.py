"""`/api/v1/keys`: API keys; a secret is shown once, when it is made."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope, list_keys
from webapp.admin_changes import AdminChanges
from webapp.admin_json import key_json
from webapp.auth import caller, requires
from webapp.incoming import keyed_request, read_body
from webapp.outgoing import list_json, replayed
from webapp.schemas.admin import KeyRequest
from webapp.services import services

blueprint = Blueprint("keys", __name__, url_prefix="/api/v1/keys")


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_keys() -> Response:
    """List all keys."""
    with services().ledger.reading() as session:
        data = [key_json(row) for row in list_keys(session)]
    return jsonify(list_json(data))


@blueprint.post("")
@requires(Scope.ADMIN_WRITE)
def create_key() -> Response:
    """Make a key and show it; a repeated request is shown which key it made, and null for the key itself."""
    changes = AdminChanges(services().ledger, caller(), keyed_request(caller().tenant))
    made = changes.create_key(read_body(KeyRequest))
    response = jsonify({**key_json(made.row), "key": made.plain})
    response.status_code = HTTPStatus.CREATED
    response.headers["Cache-Control"] = "no-store"
    return response if made.plain is not None else replayed(response)


@blueprint.delete("/<key_id>")
@requires(Scope.ADMIN_WRITE)
def revoke_key(key_id: str) -> Response:
    """Make a key useless within five seconds."""
    AdminChanges(services().ledger, caller()).revoke_key(key_id)
    return Response(status=HTTPStatus.NO_CONTENT)
