"""`/api/v1/webhooks`: where tenants hear about their jobs, and what has become of each message."""

from __future__ import annotations

from http import HTTPStatus

from flask import Blueprint, Response, jsonify

from sllm_tasks.errors import NotFoundError
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.outbox import get_message, list_messages
from sllm_tasks.ledger.tables import WebhookDeliveryRow
from sllm_tasks.ledger.webhooks import get_webhook, list_webhooks
from sllm_tasks.secrets import cluster_secret
from sllm_tasks.webhooks.signatures import tenant_secret
from webapp.auth import caller, requires
from webapp.incoming import keyed_request, page_request, read_body, read_query
from webapp.outgoing import list_json, replayed
from webapp.schemas.jobs import DeliveriesQuery
from webapp.schemas.webhooks import WebhookRequest, WebhookState
from webapp.services import services
from webapp.webhook_changes import WebhookChanges
from webapp.webhook_json import delivery_json, webhook_json
from webapp.webhook_targets import check_target

blueprint = Blueprint("webhooks", __name__, url_prefix="/api/v1")


@blueprint.get("/webhooks")
@requires(Scope.ADMIN_READ)
def get_webhooks() -> Response:
    """List all webhooks."""
    with services().ledger.reading() as session:
        data = [webhook_json(row) for row in list_webhooks(session)]
    return jsonify(list_json(data))


@blueprint.post("/webhooks")
@requires(Scope.ADMIN_WRITE)
def create_webhook() -> Response:
    """Make a webhook and show its secret, for the only time; a repeated request is shown null for it."""
    wanted = read_body(WebhookRequest)
    check_target(wanted.url, "/url", services().settings)
    made = _changes().create(wanted)
    response = jsonify({**webhook_json(made.row), "secret": made.secret})
    response.status_code = HTTPStatus.CREATED
    response.headers["Cache-Control"] = "no-store"
    return response if made.secret is not None else replayed(response)


@blueprint.get("/webhook-secret")
@requires(Scope.JOBS_WRITE)
def get_secret() -> Response:
    """Show what signs messages to URLs that jobs of the caller's tenant bring themselves."""
    secret = tenant_secret(cluster_secret(services().settings), caller().tenant)
    response = jsonify({"object": "webhook.secret", "tenant": caller().tenant, "secret": secret})
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.get("/webhooks/<webhook_id>")
@requires(Scope.ADMIN_READ)
def get_one(webhook_id: str) -> Response:
    """Read a webhook."""
    with services().ledger.reading() as session:
        return jsonify(webhook_json(get_webhook(session, webhook_id)))


@blueprint.patch("/webhooks/<webhook_id>")
@requires(Scope.ADMIN_WRITE)
def set_state(webhook_id: str) -> Response:
    """Send to a webhook again, or nothing more."""
    wanted, changes = read_body(WebhookState), _changes()
    row = changes.enable(webhook_id) if wanted.enabled else changes.disable(webhook_id)
    return jsonify(webhook_json(row))


@blueprint.delete("/webhooks/<webhook_id>")
@requires(Scope.ADMIN_WRITE)
def delete_webhook(webhook_id: str) -> Response:
    """Forget a webhook and what was sent to it."""
    _changes().delete(webhook_id)
    return Response(status=HTTPStatus.NO_CONTENT)


@blueprint.post("/webhooks/<webhook_id>/test")
@requires(Scope.ADMIN_WRITE)
def test(webhook_id: str) -> Response:
    """Send a message that says nothing."""
    return _to_be_sent(_changes().test(webhook_id))


@blueprint.get("/webhooks/<webhook_id>/deliveries")
@requires(Scope.ADMIN_READ)
def get_deliveries(webhook_id: str) -> Response:
    """List what was sent to a webhook, and what is to be."""
    query = read_query(DeliveriesQuery)
    with services().ledger.reading() as session:
        get_webhook(session, webhook_id)
        page = list_messages(session, page_request(query), webhook_id=webhook_id, status=query.status)
    return jsonify(list_json([delivery_json(row) for row in page.rows], has_more=page.has_more))


@blueprint.post("/webhooks/<webhook_id>/deliveries/<delivery_id>/redeliver")
@requires(Scope.ADMIN_WRITE)
def redeliver(webhook_id: str, delivery_id: str) -> Response:
    """Send a message at once, whatever has become of it."""
    with services().ledger.reading() as session:
        if get_message(session, delivery_id).webhook_id != webhook_id:
            raise NotFoundError(f"there is no delivery {delivery_id} to {webhook_id}")
    return _to_be_sent(_changes().send_again(delivery_id))


def _to_be_sent(row: WebhookDeliveryRow) -> Response:
    response = jsonify(delivery_json(row))
    response.status_code = HTTPStatus.ACCEPTED
    return response


def _changes() -> WebhookChanges:
    return WebhookChanges(services().ledger, caller(), keyed_request(caller().tenant))
