"""`/api/v1/models`: what can be asked for."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from pydantic import TypeAdapter, ValidationError

from sllm_tasks.ledger.inventory import get_model
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.operations import operations_by_id
from webapp.admin_changes import AdminChanges
from webapp.admin_json import model_json
from webapp.admin_lists import models_now
from webapp.api.operations import started
from webapp.auth import caller, requires
from webapp.errors import FieldError, InvalidFieldsError
from webapp.incoming import keyed_request, read_body
from webapp.outgoing import list_json
from webapp.schemas.admin import ModelRequest
from webapp.schemas.fields import ModelName
from webapp.services import services

blueprint = Blueprint("models", __name__, url_prefix="/api/v1/models")

_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ModelName)


@blueprint.get("")
@requires(Scope.MODELS_READ)
def get_models() -> Response:
    """List all models."""
    return jsonify(list_json(models_now(services())))


@blueprint.get("/<path:name>")
@requires(Scope.MODELS_READ)
def get_one(name: str) -> Response:
    """Read a model."""
    with services().ledger.reading() as session:
        row = get_model(session, name)
        deployments = operations_by_id(session, [row.deployment])
        return jsonify(model_json(row, deployments.get(row.deployment)))


@blueprint.put("/<path:name>")
@requires(Scope.ADMIN_WRITE)
def put_one(name: str) -> Response:
    """Deploy a model, or deploy it again with other settings."""
    try:
        _MODEL_NAME.validate_python(name)
    except ValidationError:
        error = FieldError(pointer="name", detail="is not a name of a model", code="string_pattern_mismatch")
        raise InvalidFieldsError((error,)) from None
    return started(_changes().put_model(name, read_body(ModelRequest)))


@blueprint.delete("/<path:name>")
@requires(Scope.ADMIN_WRITE)
def delete_one(name: str) -> Response:
    """Stop a model and forget it."""
    return started(_changes().delete_model(name))


def _changes() -> AdminChanges:
    return AdminChanges(services().ledger, caller(), keyed_request(caller().tenant))
