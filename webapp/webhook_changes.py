"""Changes of webhooks, each with its audit row."""

from __future__ import annotations

from dataclasses import dataclass

from sllm_tasks.errors import NotFoundError
from sllm_tasks.ids import new_id
from sllm_tasks.ledger import outbox, webhooks
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.keys import ensure_tenant
from sllm_tasks.ledger.tables import WebhookDeliveryRow, WebhookRow
from sllm_tasks.repeats import KeyedRequest
from sllm_tasks.webhooks.signatures import new_secret
from webapp.audited import Caller, audited
from webapp.schemas.webhooks import WebhookRequest


@dataclass(frozen=True, slots=True)
class MadeWebhook:
    """The webhook that a request has made; a repeated request is not shown its secret again."""

    row: WebhookRow
    secret: str | None


@dataclass(frozen=True, slots=True)
class WebhookChanges:
    """What one caller changes, with one request."""

    ledger: Database
    caller: Caller
    #: The key under which the request must take effect once.
    repeatable: KeyedRequest | None = None

    def create(self, wanted: WebhookRequest) -> MadeWebhook:
        """Tell a URL of the jobs of a tenant."""
        webhook_id, secret = new_id("webhook"), new_secret()
        after = {**wanted.model_dump(mode="json"), "id": webhook_id}
        with audited(self.ledger, self.caller, "webhook.create", webhook_id, after=after) as change:
            if self.repeatable is not None:
                first = self.repeatable.claim(change.session, webhook_id, change.now)
                if first is not None:
                    change.is_done = True
                    return MadeWebhook(webhooks.get_webhook(change.session, first), None)
            ensure_tenant(change.session, wanted.tenant, now=change.now)
            new = webhooks.NewWebhook(
                id=webhook_id,
                tenant=wanted.tenant,
                url=wanted.url,
                events=wanted.events,
                secret=secret,
                created_at=change.now,
            )
            return MadeWebhook(webhooks.add_webhook(change.session, new), secret)

    def enable(self, webhook_id: str) -> WebhookRow:
        """Send to a webhook again; raises NotFoundError."""
        with audited(self.ledger, self.caller, "webhook.enable", webhook_id) as change:
            change.is_done = not webhooks.enable_webhook(change.session, webhook_id)
            return webhooks.get_webhook(change.session, webhook_id)

    def disable(self, webhook_id: str) -> WebhookRow:
        """Send nothing more to a webhook; raises NotFoundError."""
        with audited(self.ledger, self.caller, "webhook.disable", webhook_id) as change:
            why = f"by {self.caller.id}"
            change.is_done = not webhooks.disable_webhook(change.session, webhook_id, why, now=change.now)
            return webhooks.get_webhook(change.session, webhook_id)

    def delete(self, webhook_id: str) -> None:
        """Forget a webhook and what was sent to it; raises NotFoundError."""
        with audited(self.ledger, self.caller, "webhook.delete", webhook_id) as change:
            if not webhooks.delete_webhook(change.session, webhook_id):
                raise NotFoundError(f"there is no webhook {webhook_id}")

    def test(self, webhook_id: str) -> WebhookDeliveryRow:
        """Send a message that says nothing; raises NotFoundError, or ConflictError for one that is disabled."""
        with audited(self.ledger, self.caller, "webhook.test", webhook_id) as change:
            return outbox.add_test(change.session, webhook_id, now=change.now)

    def send_again(self, delivery_id: str) -> WebhookDeliveryRow:
        """Send a message at once; raises NotFoundError, or ConflictError while its webhook is disabled."""
        with audited(self.ledger, self.caller, "webhook.redeliver", delivery_id) as change:
            return outbox.send_again(change.session, delivery_id, now=change.now)
