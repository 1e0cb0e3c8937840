"""Delays between tries grow, have a limit, and respect what the server asks for."""

from __future__ import annotations

from loaders.remote.retries import RetryPolicy


def test_delays_grow_up_to_a_limit_and_end() -> None:
    policy = RetryPolicy(max_tries=6, first_delay_s=1.0, max_delay_s=4.0)
    for failures, longest_s in ((1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0), (5, 4.0)):
        delay_s = policy.delay_s(failures)
        assert delay_s is not None
        assert longest_s / 2 <= delay_s <= longest_s
    assert policy.delay_s(6) is None


def test_a_server_may_ask_for_more_time() -> None:
    assert RetryPolicy().delay_s(1, asked_s=20.0) == 20.0
