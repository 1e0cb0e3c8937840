"""`/api/v1/nodes`: the servers, their gpus and tiers and what is there, from the live state; what they measured."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from pydantic import TypeAdapter, ValidationError

from sllm_tasks.ledger.keys import Scope
from webapp.admin_changes import AdminChanges
from webapp.admin_lists import nodes_now
from webapp.api.operations import started
from webapp.auth import caller, requires
from webapp.errors import FieldError, InvalidFieldsError
from webapp.incoming import keyed_request
from webapp.node_states import drain_gpus, undrain_gpus
from webapp.outgoing import list_json
from webapp.schemas.fields import NodeName
from webapp.services import services

blueprint = Blueprint("nodes", __name__, url_prefix="/api/v1/nodes")

_NODE_NAME: TypeAdapter[str] = TypeAdapter(NodeName)


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_nodes() -> Response:
    """List all nodes."""
    return jsonify(list_json(nodes_now(services())))


@blueprint.post("/<node>/calibrate")
@requires(Scope.ADMIN_WRITE)
def calibrate(node: str) -> Response:
    """Measure what the tiers of a node deliver."""
    changes = AdminChanges(services().ledger, caller(), keyed_request(caller().tenant))
    return started(changes.calibrate_node(checked_name(node)))


@blueprint.post("/<node>/drain")
@requires(Scope.ADMIN_WRITE)
def drain(node: str) -> Response:
    """Let the gpus of a node take no more work, until they are taken back.

    What runs there moves, or ends there if there is no room elsewhere; what has no token yet waits for another place.
    """
    drain_gpus(services(), caller(), checked_name(node))
    return _node(node)


@blueprint.post("/<node>/undrain")
@requires(Scope.ADMIN_WRITE)
def undrain(node: str) -> Response:
    """Let the gpus of a node take work again."""
    undrain_gpus(services(), caller(), checked_name(node))
    return _node(node)


@blueprint.post("/<node>/gpus/<int:index>/drain")
@requires(Scope.ADMIN_WRITE)
def drain_gpu(node: str, index: int) -> Response:
    """Let one gpu of a node take no more work."""
    drain_gpus(services(), caller(), checked_name(node), index)
    return _node(node)


@blueprint.post("/<node>/gpus/<int:index>/undrain")
@requires(Scope.ADMIN_WRITE)
def undrain_gpu(node: str, index: int) -> Response:
    """Let one gpu of a node take work again."""
    undrain_gpus(services(), caller(), checked_name(node), index)
    return _node(node)


def _node(node: str) -> Response:
    return jsonify(next(found for found in nodes_now(services(), node) if found["id"] == node))


def checked_name(node: str) -> str:
    """Return a node's name out of a path; raises InvalidFieldsError for what can be none."""
    try:
        return _NODE_NAME.validate_python(node)
    except ValidationError:
        error = FieldError(pointer="node", detail="is not a name of a node", code="string_pattern_mismatch")
        raise InvalidFieldsError((error,)) from None
