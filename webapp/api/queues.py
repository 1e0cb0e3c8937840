"""`/api/v1/queues`: how many jobs wait for each model and since when; holding them back and letting them go."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from sllm_tasks.ledger.keys import Scope
from webapp.admin_changes import AdminChanges
from webapp.admin_lists import queues_now
from webapp.auth import caller, requires
from webapp.outgoing import list_json
from webapp.queue_gates import move_gate
from webapp.services import services

blueprint = Blueprint("queues", __name__, url_prefix="/api/v1/queues")


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_queues() -> Response:
    """List the queue of all models together (`*`), then that of each model."""
    return jsonify(list_json(queues_now(services())))


@blueprint.post("/<path:name>/pause")
@requires(Scope.ADMIN_WRITE)
def pause(name: str) -> Response:
    """Start no more jobs of a model, or of all; those that run go on, and new ones are accepted."""
    AdminChanges(services().ledger, caller()).pause_queue(name)
    return _moved(name, paused=True)


@blueprint.post("/<path:name>/resume")
@requires(Scope.ADMIN_WRITE)
def resume(name: str) -> Response:
    """Start jobs again; a model whose own queue is paused stays so when all are resumed."""
    AdminChanges(services().ledger, caller()).resume_queue(name)
    return _moved(name, paused=False)


def _moved(name: str, *, paused: bool) -> Response:
    web = services()
    move_gate(web, name, paused=paused)
    return jsonify(next(queue for queue in queues_now(web, name) if queue["id"] == name))
