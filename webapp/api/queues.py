"""`/api/v1/queues`: how many jobs wait for each model and since when; holding them back and letting them go."""

from __future__ import annotations

import logging

from flask import Blueprint, Response, jsonify

from sllm_tasks.cluster import EVERY_MODEL
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.inventory import list_models
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.queues import paused_queues
from webapp.admin_changes import AdminChanges
from webapp.admin_json import AdminJson, queue_json
from webapp.auth import caller, requires
from webapp.outgoing import list_json
from webapp.services import services

logger = logging.getLogger(__name__)

blueprint = Blueprint("queues", __name__, url_prefix="/api/v1/queues")


@blueprint.get("")
@requires(Scope.ADMIN_READ)
def get_queues() -> Response:
    """List the queue of all models together (`*`), then that of each model."""
    return jsonify(list_json(_queues()))


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
    try:
        web.live.queues.set_paused(name, paused=paused)
        web.dispatcher.route()
    except UnavailableError as error:
        logger.warning("the router will see within a second that queue %s has changed: %s", name, error)
    return jsonify(next((queue for queue in _queues() if queue["id"] == name), None))


def _queues() -> list[AdminJson]:
    web = services()
    with web.ledger.reading() as session:
        paused = {row.name: row for row in paused_queues(session)}
        models = {row.name for row in list_models(session)}
    names = [EVERY_MODEL, *sorted(models | paused.keys() - {EVERY_MODEL})]
    now_ms, depths = web.live.now_ms(), web.live.queues.depths(names)
    return [queue_json(name, depth, paused.get(name), now_ms) for name, depth in zip(names, depths, strict=True)]
