"""Where errors of the Redis client become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import RedisError

from sllm_tasks.errors import UnavailableError

#: Every key of ours starts with it; Celery's do not.
PREFIX = "sllm:"


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
