"""Batches as OpenAI writes them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sllm_tasks.ledger.states import BatchStatus
from sllm_tasks.ledger.tables import BatchRow

_DAY_S: Final = 86_400
#: Where OpenAI spells a status otherwise.
_SPELLING: Final[Mapping[BatchStatus, str]] = {
    BatchStatus.CANCELING: "cancelling",
    BatchStatus.CANCELED: "cancelled",
}


def batch_json(row: BatchRow) -> dict[str, object]:
    """The batch as its user sees it."""
    window_s = round((row.expires_at - row.created_at).total_seconds())
    ended = {row.status: _seconds(row.ended_at)}
    return {
        "id": row.id,
        "object": "batch",
        "endpoint": row.endpoint,
        "errors": None if row.problems is None else {"object": "list", "data": row.problems},
        "input_file_id": row.input_file_id,
        "completion_window": "24h" if window_s == _DAY_S else f"{window_s}s",
        "status": _SPELLING.get(row.status, row.status),
        "output_file_id": row.output_file_id,
        "error_file_id": row.error_file_id,
        "created_at": _seconds(row.created_at),
        "expires_at": _seconds(row.expires_at),
        "in_progress_at": _seconds(row.in_progress_at),
        "finalizing_at": _seconds(row.finalizing_at),
        "completed_at": ended.get(BatchStatus.COMPLETED),
        "failed_at": ended.get(BatchStatus.FAILED),
        "expired_at": ended.get(BatchStatus.EXPIRED),
        "cancelling_at": _seconds(row.canceling_at),
        "cancelled_at": ended.get(BatchStatus.CANCELED),
        "request_counts": {
            "total": row.num_requests,
            "completed": row.num_completed,
            "failed": row.num_failed,
        },
        "metadata": row.user_metadata,
    }


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
