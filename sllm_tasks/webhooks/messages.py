"""What a webhook says: which job has ended and how, never what it has produced."""

from __future__ import annotations

import json
from datetime import datetime

from sllm_tasks.ledger.tables import JobRow, WebhookDeliveryRow

#: Standard Webhooks wants messages below 20 kB, and metadata may be half of that.
_MAX_MESSAGE_LENGTH = 1_000


def message_body(delivery: WebhookDeliveryRow, job: JobRow | None) -> bytes:
    """Write a message; that of a job is made of its row, so it tells no more of one whose content was deleted."""
    if job is None:
        data: dict[str, object] = {"webhook": delivery.webhook_id}
    else:
        data = _job(job)
    message = {"type": delivery.event, "timestamp": _time(delivery.created_at), "data": data}
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _job(row: JobRow) -> dict[str, object]:
    path = f"/api/v1/jobs/{row.id}"
    return {
        "id": row.id,
        "client_id": row.client_id,
        "status": row.status,
        "model": row.model,
        "finish_reason": row.finish_reason,
        "usage": {"prompt_tokens": row.prompt_tokens, "completion_tokens": row.completion_tokens},
        "error": None
        if row.error_code is None
        else {"code": row.error_code, "message": (row.error_message or "")[:_MAX_MESSAGE_LENGTH]},
        "metadata": row.user_metadata,
        "created_at": _time(row.created_at),
        "completed_at": None if row.ended_at is None else _time(row.ended_at),
        "links": {"self": path, "result": f"{path}/result"},
    }


def _time(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
