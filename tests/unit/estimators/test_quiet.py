"""What gaps without jobs say about the next job."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.estimators.quiet import QuietTimes

_ALWAYS_S = 1e9


def _learned(*gaps_s: float) -> QuietTimes:
    quiet, at_s = QuietTimes(), 0.0
    quiet.learn("m", at_s)
    for gap_s in gaps_s:
        at_s += gap_s
        quiet.learn("m", at_s)
    return quiet


def test_the_quiet_time_counts_from_the_last_job_whatever_comes_late() -> None:
    quiet = _learned(5.0)
    quiet.learn("m", 3.0)
    assert quiet.quiet_s("m", 7.0) == pytest.approx(2.0)
    assert quiet.quiet_s("other", 7.0) is None


def test_clockwork_is_worth_waiting_for_only_when_it_is_near() -> None:
    quiet = _learned(*[300.0] * 10)
    assert quiet.hit_rate("m", 1.0, _ALWAYS_S) == pytest.approx(1 / 300, rel=0.1)
    assert quiet.hit_rate("m", 295.0, _ALWAYS_S) == pytest.approx(1 / 5, rel=0.1)
    # Within two seconds it does not come.
    assert quiet.hit_rate("m", 295.0, 2.0) == pytest.approx(1 / 295)


def test_bursts_are_worth_waiting_for_after_a_job_and_not_later() -> None:
    quiet = _learned(*([2.0] * 9 + [500.0]) * 4)
    assert quiet.hit_rate("m", 0.0, _ALWAYS_S) > 0.2
    assert quiet.hit_rate("m", 20.0, _ALWAYS_S) < 0.01


def test_of_a_model_with_one_job_nothing_is_known_but_how_long_ago_that_was() -> None:
    assert _learned().hit_rate("m", 40.0, _ALWAYS_S) == pytest.approx(1 / 40)


@given(st.lists(st.floats(1.0, 1e5), max_size=80), st.floats(0, 1e5), st.floats(0, 1e5))
def test_waiting_longer_at_best_never_makes_the_best_worse(
    gaps_s: list[float], quiet_s: float, within_s: float
) -> None:
    quiet = _learned(*gaps_s)
    assert 0 < quiet.hit_rate("m", quiet_s, within_s) <= quiet.hit_rate("m", quiet_s, within_s + 10) <= 1.0
