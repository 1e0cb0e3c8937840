"""Where tenants want to hear about their jobs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from sllm_tasks.errors import NotFoundError
from sllm_tasks.ledger.states import DeliveryStatus, WebhookEvent
from sllm_tasks.ledger.tables import WebhookDeliveryRow, WebhookRow
from sllm_tasks.ledger.writes import AS_READ, took_place


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWebhook:
    """A webhook as it is made."""

    id: str
    tenant: str
    url: str
    events: Collection[WebhookEvent]
    #: `whsec_...`; signs what is sent there.
    secret: str
    created_at: datetime


def add_webhook(session: Session, new: NewWebhook) -> WebhookRow:
    """Tell a URL of events from now on; the tenant must be known."""
    row = WebhookRow(**{**asdict(new), "events": sorted(new.events)})
    session.add(row)
    session.flush()
    return row


def list_webhooks(session: Session) -> Sequence[WebhookRow]:
    """List all webhooks, oldest first."""
    query = select(WebhookRow).order_by(WebhookRow.id)
    return session.scalars(query.execution_options(populate_existing=True)).all()


def get_webhook(session: Session, webhook_id: str) -> WebhookRow:
    """Read a webhook; raises NotFoundError."""
    row = session.get(WebhookRow, webhook_id, populate_existing=True)
    if row is None:
        raise NotFoundError(f"there is no webhook {webhook_id}")
    return row


def disable_webhook(session: Session, webhook_id: str, why: str, *, now: datetime) -> bool:
    """Send nothing more to a webhook, what waits included; False if it is unknown or disabled already."""
    change = update(WebhookRow).where(WebhookRow.id == webhook_id, WebhookRow.disabled_at.is_(None))
    if not took_place(session, change.values(disabled_at=now, disabled_reason=why)):
        return False
    waiting = update(WebhookDeliveryRow).where(
        WebhookDeliveryRow.webhook_id == webhook_id, WebhookDeliveryRow.status == DeliveryStatus.PENDING
    )
    ended = waiting.values(status=DeliveryStatus.FAILED, due_at=None, error=f"the webhook was disabled: {why}")
    session.execute(ended, execution_options=AS_READ)
    return True


def enable_webhook(session: Session, webhook_id: str) -> bool:
    """Send to a webhook again, from the next event on; False if it is unknown or not disabled."""
    change = update(WebhookRow).where(WebhookRow.id == webhook_id, WebhookRow.disabled_at.is_not(None))
    return took_place(session, change.values(disabled_at=None, disabled_reason=None, failing_since=None))


def delete_webhook(session: Session, webhook_id: str) -> bool:
    """Forget a webhook and what was sent to it; False if it is unknown."""
    return took_place(session, delete(WebhookRow).where(WebhookRow.id == webhook_id))
