"""Webhooks and the messages to them as the API writes them; secrets are not shown."""

from __future__ import annotations

from sllm_tasks.ledger.tables import WebhookDeliveryRow, WebhookRow
from webapp.outgoing import time_json


def webhook_json(row: WebhookRow) -> dict[str, object]:
    """A webhook without its secret."""
    return {
        "id": row.id,
        "object": "webhook",
        "tenant": row.tenant,
        "url": row.url,
        "events": row.events,
        "enabled": row.disabled_at is None,
        "failing_since": time_json(row.failing_since),
        "disabled_at": time_json(row.disabled_at),
        "disabled_reason": row.disabled_reason,
        "created_at": time_json(row.created_at),
    }


def delivery_json(row: WebhookDeliveryRow) -> dict[str, object]:
    """A message and what has become of it."""
    return {
        "id": row.id,
        "object": "delivery",
        "webhook": row.webhook_id,
        "tenant": row.tenant,
        "job": row.job_id,
        "event": row.event,
        "url": row.url,
        "status": row.status,
        "attempts": row.num_attempts,
        "http_status": row.http_status,
        "error": row.error,
        "created_at": time_json(row.created_at),
        "attempted_at": time_json(row.attempted_at),
        "next_attempt_at": time_json(row.due_at),
    }
