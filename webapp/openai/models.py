"""`/v1/models`: what can be asked for."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.inventory import list_models
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.tables import ModelRow
from webapp.auth import requires
from webapp.errors import ModelUnknownError
from webapp.services import services

blueprint = Blueprint("openai_models", __name__, url_prefix="/v1/models")


@blueprint.get("")
@requires(Scope.MODELS_READ)
def get_models() -> Response:
    """List the models that take requests."""
    with services().ledger.reading() as session:
        data = [_model_json(row) for row in list_models(session, ready_only=True)]
    return jsonify({"object": "list", "data": data})


@blueprint.get("/<path:name>")
@requires(Scope.MODELS_READ)
def get_one(name: str) -> Response:
    """Read a model that takes requests."""
    with services().ledger.reading() as session:
        for row in list_models(session, ready_only=True):
            if row.name == name:
                return jsonify(_model_json(row))
    raise ModelUnknownError(f"there is no model {name}")


def _model_json(row: ModelRow) -> dict[str, object]:
    return {"id": row.name, "object": "model", "created": int(row.created_at.timestamp()), "owned_by": "sllm-tasks"}
