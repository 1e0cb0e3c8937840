"""Token buckets in the live state."""

from __future__ import annotations

from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.rates import RateKind, RateUse
from tests.integration.livestate.world import World


def take(live: LiveState, amount: int = 1, *, key: str = "k", limit: int = 10) -> RateUse:
    return live.rates.take(RateKind.TOKENS, key, limit=limit, amount=amount)


def test_what_a_minute_gives_can_be_taken_at_once_and_no_more(live: LiveState) -> None:
    assert [take(live, 4).remaining for _ in range(2)] == [6, 2]
    refused = take(live, 4)
    assert (refused.taken, refused.remaining) == (False, 2)
    # Two are missing, of ten a minute.
    assert 11_000 < refused.wait_ms <= 12_000
    assert take(live, 2).taken
    assert take(live, key="another").taken


def test_a_bucket_fills_up_with_time_and_not_beyond_its_rim(world: World) -> None:
    take(world.live, 10)
    assert not take(world.live).taken
    at_ms = int(world.redis.hget("sllm:rate:tokens:k", "at_ms") or 0)
    world.redis.hset("sllm:rate:tokens:k", "at_ms", at_ms - 30_000)
    assert take(world.live, 0).remaining in {5, 6}
    world.redis.hset("sllm:rate:tokens:k", "at_ms", at_ms - 3_600_000)
    assert take(world.live, 0).remaining == 10


def test_more_than_a_minute_gives_is_let_in_when_the_bucket_is_full_and_is_owed_then(live: LiveState) -> None:
    assert take(live, 25).taken
    refused = take(live)
    assert (refused.taken, refused.remaining) == (False, 0)
    assert 90_000 < refused.wait_ms <= 96_000


def test_a_bucket_that_is_full_again_is_forgotten(world: World) -> None:
    take(world.live, 5)
    assert 29_000 < int(world.redis.pttl("sllm:rate:tokens:k")) <= 31_000
