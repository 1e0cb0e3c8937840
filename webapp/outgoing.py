"""Forms that all answers share: instants, pages of lists, the mark of a repeated request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flask import Response


def time_json(at: datetime | None) -> str | None:
    """Write an instant in UTC with milliseconds."""
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def list_json(data: Sequence[dict[str, object]], *, key: str = "id", has_more: bool = False) -> dict[str, object]:
    """Write a list, or one page of it; `key` names the field that `?after=` takes."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0][key] if data else None,
        "last_id": data[-1][key] if data else None,
        "has_more": has_more,
    }


def replayed(response: Response) -> Response:
    """Say that an earlier sending of the request has done this."""
    response.headers["Idempotency-Replayed"] = "true"
    return response
