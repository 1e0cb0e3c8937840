"""A live state of its own for each test; a test may leave no key there that the documentation does not know."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis import Redis

from sllm_tasks.livestate import LiveState
from tests.integration.livestate.world import World
from tests.support.state_document import documented_keys
from tests.support.valkey import ValkeyServer, live_url, valkey_server

__all__ = ["live_url", "valkey_server"]


@pytest.fixture
def redis(valkey_server: ValkeyServer) -> Iterator[Redis]:
    """A connection past the live state, to play time and faults."""
    with valkey_server.client() as client:
        yield client


@pytest.fixture
def live(live_url: str, redis: Redis) -> Iterator[LiveState]:
    """An empty live state; what a test leaves there must be documented."""
    with LiveState(live_url) as opened:
        yield opened
    patterns = documented_keys()
    unknown = [key for key in redis.keys("*") if not any(key_form.matches(key.decode()) for key_form in patterns)]
    assert not unknown, f"docs/state.md does not name {unknown}"


@pytest.fixture
def world(live: LiveState, redis: Redis) -> World:
    """A live state with the few things that most tests need to happen, whose router keeps nobody off the fast path."""
    made = World(live, redis)
    made.open_gates()
    return made
