"""Messages to webhooks: written in the transaction that ends a job, so that no end is told twice or never.

`num_attempts` fences: whoever takes a message gets its number, and may say what came of it only while that number is
current. A message whose sender has died is due again once its time is up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Update, and_, bindparam, select, update
from sqlalchemy.orm import Session

from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.pages import Page, PageRequest, read_page
from sllm_tasks.ledger.states import TEST_EVENT, DeliveryStatus
from sllm_tasks.ledger.tables import WebhookDeliveryRow, WebhookRow
from sllm_tasks.ledger.webhooks import disable_webhook, get_webhook
from sllm_tasks.ledger.writes import AS_READ, delete_some, took_place

#: More than a try may take.
_LEASE: Final = timedelta(seconds=60)
#: A webhook to which nothing gets for so long is disabled: no message is tried for much longer.
_PATIENCE: Final = timedelta(days=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedJob:
    """A job that this transaction ends."""

    id: str
    tenant: str
    status: JobStatus
    #: The URL that came with the job, and the events it is for.
    webhook: JsonObject | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What came of one try."""

    delivery_id: str
    attempt: int
    at: datetime
    http_status: int | None
    #: None: it was delivered.
    error: str | None = None
    #: When to try again after an error; None: no more.
    next_at: datetime | None = None
    #: The receiver wants nothing more (410).
    is_gone: bool = False


def add_messages(session: Session, ended: Sequence[EndedJob]) -> None:
    """Tell those who want to hear of the end of jobs, once this transaction is committed."""
    hooks = session.execute(_HOOKS_OF, {"tenants": list({job.tenant for job in ended})}).all()
    for job in ended:
        event = f"job.{job.status}"
        for hook in hooks:
            if hook.tenant == job.tenant and event in hook.events:
                session.add(_message(job.tenant, event, hook.url, webhook_id=hook.id, job_id=job.id, at=job.at))
        own = job.webhook
        if own is not None and event in own["events"]:  # type: ignore[operator] # JSON; checked when it came in
            session.add(_message(job.tenant, event, str(own["url"]), webhook_id=None, job_id=job.id, at=job.at))


#: Built once: every job passes here.
_HOOKS_OF: Final = select(WebhookRow.id, WebhookRow.tenant, WebhookRow.url, WebhookRow.events).where(
    WebhookRow.tenant.in_(bindparam("tenants", expanding=True)), WebhookRow.disabled_at.is_(None)
)


def add_test(session: Session, webhook_id: str, *, now: datetime) -> WebhookDeliveryRow:
    """Send a message that says nothing; raises NotFoundError, or ConflictError for a webhook that is disabled."""
    hook = _open_webhook(session, webhook_id)
    row = _message(hook.tenant, TEST_EVENT, hook.url, webhook_id=hook.id, job_id=None, at=now)
    session.add(row)
    session.flush()
    return row


def due_message(
    session: Session, *, busy_urls: Collection[str], busy_tenants: Collection[str], now: datetime
) -> WebhookDeliveryRow | None:
    """Find the message that is due longest, none to URLs and of tenants that are busy."""
    query = select(WebhookDeliveryRow).where(
        WebhookDeliveryRow.due_at <= now,
        WebhookDeliveryRow.url.not_in(busy_urls),
        WebhookDeliveryRow.tenant.not_in(busy_tenants),
    )
    return session.scalar(query.order_by(WebhookDeliveryRow.due_at).limit(1))


def take_message(session: Session, row: WebhookDeliveryRow, *, now: datetime) -> bool:
    """Begin a try; False if somebody else has."""
    change = _attempt(row.id, row.num_attempts).where(WebhookDeliveryRow.due_at <= now)
    taken = change.values(num_attempts=row.num_attempts + 1, attempted_at=now, due_at=now + _LEASE)
    return took_place(session, taken)


def note_try(session: Session, tried: Tried) -> bool:
    """Record what came of a try, and disable a webhook that never answers well; False if the try is over."""
    is_over = tried.error is None or tried.next_at is None
    ended = DeliveryStatus.DELIVERED if tried.error is None else DeliveryStatus.FAILED
    change = _attempt(tried.delivery_id, tried.attempt).values(
        status=ended if is_over else DeliveryStatus.PENDING,
        due_at=None if is_over else tried.next_at,
        http_status=tried.http_status,
        error=tried.error,
    )
    if not took_place(session, change):
        return False
    webhook_id = get_message(session, tried.delivery_id).webhook_id
    if webhook_id is not None:
        _judge(session, webhook_id, tried)
    return True


def get_message(session: Session, delivery_id: str) -> WebhookDeliveryRow:
    """Read a message; raises NotFoundError."""
    row = session.get(WebhookDeliveryRow, delivery_id, populate_existing=True)
    if row is None:
        raise NotFoundError(f"there is no delivery {delivery_id}")
    return row


def list_messages(
    session: Session,
    request: PageRequest,
    *,
    webhook_id: str | None = None,
    job_id: str | None = None,
    status: DeliveryStatus | None = None,
) -> Page[WebhookDeliveryRow]:
    """List messages, only to one webhook, about one job or in one state if given."""
    query = select(WebhookDeliveryRow).execution_options(populate_existing=True)
    if webhook_id is not None:
        query = query.where(WebhookDeliveryRow.webhook_id == webhook_id)
    if job_id is not None:
        query = query.where(WebhookDeliveryRow.job_id == job_id)
    if status is not None:
        query = query.where(WebhookDeliveryRow.status == status)
    return read_page(session, query, WebhookDeliveryRow.id, request)


def send_again(session: Session, delivery_id: str, *, now: datetime) -> WebhookDeliveryRow:
    """Send a message at once, under the id it had; one that was given up gets one more try.

    Raises NotFoundError, or ConflictError for one to a webhook that is disabled.
    """
    row = get_message(session, delivery_id)
    if row.webhook_id is not None:
        _open_webhook(session, row.webhook_id)
    anew = update(WebhookDeliveryRow).where(WebhookDeliveryRow.id == delivery_id)
    session.execute(anew.values(status=DeliveryStatus.PENDING, due_at=now), execution_options=AS_READ)
    return get_message(session, delivery_id)


def purge_messages(session: Session, older_than: datetime, limit: int = 500) -> int:
    """Forget up to `limit` old messages that are not to be sent any more; returns how many."""
    is_old = and_(WebhookDeliveryRow.created_at < older_than, WebhookDeliveryRow.due_at.is_(None))
    return delete_some(session, WebhookDeliveryRow, is_old, limit)


def _judge(session: Session, webhook_id: str, tried: Tried) -> None:
    """Remember since when nothing arrives, and end that after a while."""
    of_hook = update(WebhookRow).where(WebhookRow.id == webhook_id)
    if tried.error is None:
        session.execute(of_hook.values(failing_since=None), execution_options=AS_READ)
        return
    first = of_hook.where(WebhookRow.failing_since.is_(None))
    session.execute(first.values(failing_since=tried.at), execution_options=AS_READ)
    failing_since = get_webhook(session, webhook_id).failing_since
    if tried.is_gone:
        disable_webhook(session, webhook_id, "the receiver answered 410 Gone", now=tried.at)
    elif failing_since is not None and tried.at - failing_since >= _PATIENCE:
        why = f"nothing arrived since {failing_since:%Y-%m-%d %H:%M} UTC; at last: {tried.error}"
        disable_webhook(session, webhook_id, why, now=tried.at)


def _open_webhook(session: Session, webhook_id: str) -> WebhookRow:
    hook = get_webhook(session, webhook_id)
    if hook.disabled_at is not None:
        raise ConflictError(f"the webhook {webhook_id} is disabled; enable it first")
    return hook


def _message(
    tenant: str, event: str, url: str, *, webhook_id: str | None, job_id: str | None, at: datetime
) -> WebhookDeliveryRow:
    return WebhookDeliveryRow(
        id=new_id("msg"),
        webhook_id=webhook_id,
        tenant=tenant,
        job_id=job_id,
        event=event,
        url=url,
        status=DeliveryStatus.PENDING,
        due_at=at,
        created_at=at,
    )


def _attempt(delivery_id: str, attempt: int) -> Update:
    return update(WebhookDeliveryRow).where(
        WebhookDeliveryRow.id == delivery_id,
        WebhookDeliveryRow.num_attempts == attempt,
        WebhookDeliveryRow.status == DeliveryStatus.PENDING,
    )
