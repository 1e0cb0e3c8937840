"""Where errors of the Redis client become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError

from sllm_tasks.errors import UnavailableError

#: Every key of ours starts with it; Celery's do not.
PREFIX = "sllm:"
#: Expiry of a call that may be held up for as long as it takes.
NEVER_MS = 2**53


@contextmanager
def translated() -> Iterator[None]:
    """Raise UnavailableError for whatever goes wrong between us and the server."""
    try:
        yield
    except RedisError as error:
        raise UnavailableError(f"the live state does not answer: {error}") from error


def text(value: object) -> str:
    """A field as text; a missing one is empty."""
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, str) else ""


def number(value: object) -> int | None:
    """A field as an integer; a missing or empty one is None."""
    return int(float(text(value))) if value else None


def entries(answer: Any) -> list[tuple[str, dict[bytes, bytes]]]:
    """Stream entries of an XREAD of one stream or of an XRANGE, whichever protocol version is spoken."""
    if not answer:
        return []
    if isinstance(answer, dict):
        answer = next(iter(answer.values()))[0]
    elif len(answer[0]) == 2 and isinstance(answer[0][1], list):
        answer = answer[0][1]
    return [(text(entry_id), fields) for entry_id, fields in answer]


def entries_by_stream(answer: Any) -> dict[str, list[tuple[str, dict[bytes, bytes]]]]:
    """Stream entries of an XREAD of several streams, by key, whichever protocol version is spoken."""
    if isinstance(answer, dict):
        answer = [(key, chunks[0]) for key, chunks in answer.items()]
    return {text(key): [(text(entry_id), fields) for entry_id, fields in found] for key, found in answer or ()}
