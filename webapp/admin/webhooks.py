"""Webhooks: who is told when jobs end, and what has become of each message."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from flask import Response, render_template, request

from sllm_tasks.ledger.outbox import list_messages
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import DeliveryStatus, Role, WebhookEvent
from sllm_tasks.ledger.webhooks import get_webhook, list_webhooks
from webapp.admin.access import needs, person
from webapp.admin.blueprint import blueprint, see_other
from webapp.admin.forms import Form, form_request, given_fields, read_form
from webapp.admin.pages import Context, page
from webapp.errors import InvalidFieldsError
from webapp.schemas.webhooks import WebhookRequest
from webapp.services import services
from webapp.webhook_changes import MadeWebhook, WebhookChanges
from webapp.webhook_json import delivery_json, webhook_json
from webapp.webhook_targets import check_target

_PAGE: Final = 50


@blueprint.get("/webhooks")
@needs(Role.ADMIN)
def webhooks() -> Response:
    """List webhooks."""
    return _show(Form(), HTTPStatus.OK)


@blueprint.post("/webhooks")
@needs(Role.ADMIN)
def create_webhook() -> Response:
    """Make a webhook and show its secret, for the only time."""
    try:
        wanted = read_form(WebhookRequest, {**given_fields(), "events": request.form.getlist("events")})
        check_target(wanted.url, "/url", services().settings)
    except InvalidFieldsError as error:
        return _show(Form.refused(error), HTTPStatus.UNPROCESSABLE_ENTITY)
    return _show(Form(), HTTPStatus.CREATED, _changes().create(wanted))


@blueprint.post("/webhooks/<webhook_id>/<any(enable, disable):verb>")
@needs(Role.ADMIN)
def set_webhook_state(webhook_id: str, verb: str) -> Response:
    """Send to a webhook again, or nothing more."""
    if verb == "enable":
        _changes().enable(webhook_id)
    else:
        _changes().disable(webhook_id)
    return see_other("webhooks", notice=f"webhook_{verb}d")


@blueprint.post("/webhooks/<webhook_id>/test")
@needs(Role.ADMIN)
def test_webhook(webhook_id: str) -> Response:
    """Send a message that says nothing, and show what becomes of it."""
    _changes().test(webhook_id)
    return see_other("deliveries", webhook=webhook_id)


@blueprint.get("/webhooks/<webhook_id>/delete")
@needs(Role.ADMIN)
def ask_delete_webhook(webhook_id: str) -> Response:
    """Say what deleting would do."""
    with services().ledger.reading() as session:
        url = get_webhook(session, webhook_id).url
    effects = (f"{url} is told nothing more.", "The log of what was sent there is deleted as well.")
    return Response(render_template("admin/confirm.html", title="Delete the webhook?", effects=effects, verb="Delete"))


@blueprint.post("/webhooks/<webhook_id>/delete")
@needs(Role.ADMIN)
def delete_webhook(webhook_id: str) -> Response:
    """Forget a webhook."""
    _changes().delete(webhook_id)
    return see_other("webhooks")


@blueprint.get("/webhooks/deliveries")
@needs(Role.ADMIN)
def deliveries() -> Response:
    """List messages, newest first."""
    return page("deliveries", _deliveries)


@blueprint.post("/webhooks/deliveries/<delivery_id>/redeliver")
@needs(Role.ADMIN)
def redeliver(delivery_id: str) -> Response:
    """Send a message at once."""
    row = _changes().send_again(delivery_id)
    return see_other("deliveries", **({"webhook": row.webhook_id} if row.webhook_id else {}))


def _show(form: Form, status: HTTPStatus, made: MadeWebhook | None = None) -> Response:
    return page("webhooks", _context, status=status, form=form, events=list(WebhookEvent), made=made)


def _context() -> Context:
    with services().ledger.reading() as session:
        return {"webhooks": [webhook_json(row) for row in list_webhooks(session)]}


def _deliveries() -> Context:
    webhook, status = request.args.get("webhook", ""), request.args.get("status", "")
    wanted = DeliveryStatus(status) if status in set(DeliveryStatus) else None
    asked = PageRequest(limit=_PAGE, after=request.args.get("after"))
    with services().ledger.reading() as session:
        found = list_messages(session, asked, webhook_id=webhook or None, status=wanted)
    return {
        "deliveries": [delivery_json(row) for row in found.rows],
        "next_after": found.rows[-1].id if found.has_more else None,
        "webhook": webhook,
        "status": status,
        "statuses": list(DeliveryStatus),
    }


def _changes() -> WebhookChanges:
    return WebhookChanges(services().ledger, person(), form_request(person().tenant))
