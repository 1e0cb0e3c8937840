"""A live state and a ledger for control to work between; Celery's queues share the server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sllm_tasks.livestate import LiveState
from tests.integration.livestate.conftest import redis, world
from tests.support.valkey import live_url, valkey_server

__all__ = ["live_url", "redis", "valkey_server", "world"]


@pytest.fixture
def live(live_url: str) -> Iterator[LiveState]:
    """An empty live state."""
    with LiveState(live_url) as opened:
        yield opened
