"""A node counts as lost when it was silent for long while others could be heard."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from sllm_tasks.control.presence import Presence

BEGIN = datetime(2026, 11, 21, tzinfo=UTC)
BOTH = ("n0", "n1")


def looks(presence: Presence, seconds: Sequence[int], *alive: str) -> list[set[str]]:
    return [set(presence.lost(BOTH, alive, BEGIN + timedelta(seconds=second))) for second in seconds]


@pytest.fixture
def presence() -> Presence:
    return Presence(timedelta(seconds=300))


def test_a_node_that_is_silent_for_longer_than_it_may_is_lost_until_it_is_heard(presence: Presence) -> None:
    looks(presence, [0], *BOTH)
    assert looks(presence, range(1, 303), "n0")[-3:] == [set(), {"n1"}, {"n1"}]
    assert looks(presence, [303], *BOTH) == [set()]


def test_a_node_that_was_never_heard_has_its_time_from_the_first_look_on(presence: Presence) -> None:
    assert looks(presence, range(302), "n0")[-2:] == [set(), {"n1"}]


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_nobody_is_lost_for_a_time_without_looks_or_for_a_step_of_the_clock(presence: Presence, step_s: int) -> None:
    looks(presence, range(200), *BOTH)
    assert looks(presence, range(200 + step_s, 501 + step_s), "n0") == [set()] * 301
    assert looks(presence, [501 + step_s], "n0") == [{"n1"}]
