"""Sends what the outbox holds, a few messages at a time, and records what came of it."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Final

from sllm_tasks.errors import NotFoundError, UnavailableError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.jobs import get_job
from sllm_tasks.ledger.outbox import Tried, due_message, note_try, take_message
from sllm_tasks.ledger.tables import WebhookDeliveryRow
from sllm_tasks.ledger.webhooks import get_webhook
from sllm_tasks.networks import Networks
from sllm_tasks.webhooks.messages import message_body
from sllm_tasks.webhooks.posting import PostError, post
from sllm_tasks.webhooks.schedule import next_try
from sllm_tasks.webhooks.signatures import signed_headers, tenant_secret

logger = logging.getLogger(__name__)

#: Threads that send; each waits for one receiver at a time.
NUM_SENDERS: Final = 4
#: A slow receiver holds no more of them than this, and all receivers of a tenant no more than that.
_MAX_PER_URL: Final = 2
_MAX_PER_TENANT: Final = 3
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Try:
    """A message that is ours to send."""

    delivery_id: str
    attempt: int
    url: str
    body: bytes
    secret: str


class WebhookSender:
    """`run` may be called by many threads, and in many processes: the ledger says whose a message is."""

    def __init__(self, ledger: Database, cluster_secret: str, allowed: Networks) -> None:
        """`allowed` are networks that webhooks may reach though they are not public."""
        self._ledger = ledger
        self._cluster_secret = cluster_secret
        self._allowed = allowed
        self._lock = threading.Lock()
        # Under the lock: URLs and tenants of the messages that are being sent.
        self._urls: Counter[str] = Counter()
        self._tenants: Counter[str] = Counter()

    def run(self, stopping: threading.Event) -> None:
        """Send until told to stop."""
        while not stopping.is_set():
            try:
                if not self.send_next():
                    stopping.wait(_LOOK_S)
            except UnavailableError as error:
                logger.warning("webhooks wait: %s", error)
                stopping.wait(_LOOK_S)

    def send_next(self) -> bool:
        """Send one message that is due; False if there was none. Raises UnavailableError."""
        with self._lock:
            urls = {url for url, num_sending in self._urls.items() if num_sending >= _MAX_PER_URL}
            tenants = {tenant for tenant, num_sending in self._tenants.items() if num_sending >= _MAX_PER_TENANT}
        now = datetime.now(UTC)
        with self._ledger.reading() as session:
            row = due_message(session, busy_urls=urls, busy_tenants=tenants, now=now)
        if row is None:
            return False
        with self._ledger.transaction() as session:
            is_ours = take_message(session, row, now=now)
        if is_ours:
            with self._busy_with(row):
                self._try(row)
        return True

    def _try(self, row: WebhookDeliveryRow) -> None:
        try:
            message = self._prepare(row)
        except NotFoundError:
            # Its webhook was deleted a moment ago, and the message with it.
            return
        tried = self._send(message)
        with self._ledger.transaction() as session:
            note_try(session, tried)

    def _prepare(self, row: WebhookDeliveryRow) -> _Try:
        with self._ledger.reading() as session:
            job = None if row.job_id is None else get_job(session, row.job_id)
            own = None if row.webhook_id is None else get_webhook(session, row.webhook_id).secret
        return _Try(
            delivery_id=row.id,
            attempt=row.num_attempts + 1,
            url=row.url,
            body=message_body(row, job),
            secret=own or tenant_secret(self._cluster_secret, row.tenant),
        )

    def _send(self, message: _Try) -> Tried:
        now = datetime.now(UTC)
        headers = signed_headers(message.secret, message.delivery_id, message.body, now=now)
        status, error = None, None
        try:
            status = post(message.url, message.body, headers, self._allowed)
        except PostError as failure:
            error = str(failure)
        if status is not None and not 200 <= status < 300:
            error = f"the receiver answered {status}"
        if error is not None:
            logger.info("message %s, try %d: %s", message.delivery_id, message.attempt, error)
        is_gone = status == HTTPStatus.GONE
        return Tried(
            delivery_id=message.delivery_id,
            attempt=message.attempt,
            at=datetime.now(UTC),
            http_status=status,
            error=error,
            next_at=None if is_gone else next_try(message.attempt, datetime.now(UTC)),
            is_gone=is_gone,
        )

    @contextmanager
    def _busy_with(self, row: WebhookDeliveryRow) -> Iterator[None]:
        with self._lock:
            self._urls[row.url] += 1
            self._tenants[row.tenant] += 1
        try:
            yield
        finally:
            with self._lock:
                self._urls -= Counter([row.url])
                self._tenants -= Counter([row.tenant])
