"""Bytes over a link: never faster than it, in the order of its discipline."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.simulation.clock import Clock
from sllm_tasks.simulation.links import Discipline, Link


def _send_all(
    sizes: list[tuple[float, float]], discipline: Discipline, *, most: float = float("inf")
) -> dict[int, float]:
    """When each transfer of (time, bytes) has passed a link of 10 bytes per second."""
    clock = Clock()
    link = Link(clock, 10.0, discipline)
    ended_s: dict[int, float] = {}

    def end(number: int) -> None:
        ended_s[number] = clock.now_s

    for number, (at_s, num_bytes) in enumerate(sizes):
        clock.at(at_s, partial(link.send, num_bytes, partial(end, number), max_bytes_per_s=most))
    clock.run()
    return ended_s


def test_first_come_is_first_served() -> None:
    assert _send_all([(0, 100), (0, 10)], Discipline.FCFS) == pytest.approx({0: 10.0, 1: 11.0})


def test_sharing_halves_the_rate_of_two() -> None:
    assert _send_all([(0, 100), (0, 10)], Discipline.SHARING) == pytest.approx({0: 11.0, 1: 2.0})


def test_the_smaller_rest_goes_first() -> None:
    assert _send_all([(0, 100), (1, 10)], Discipline.REMAINING) == pytest.approx({0: 11.0, 1: 2.0})


def test_a_large_transfer_grows_old_enough_to_go_first() -> None:
    stream = [(0.0, 60.0), *((float(second), 10.0) for second in range(200))]
    ended_s = _send_all(stream, Discipline.REMAINING)
    assert ended_s[0] < 120


def test_what_one_end_does_not_take_is_left_to_the_others() -> None:
    clock = Clock()
    link = Link(clock, 10.0, Discipline.SHARING)
    ended_s: list[float] = []
    link.send(10, lambda: ended_s.append(clock.now_s), max_bytes_per_s=1.0)
    link.send(90, lambda: ended_s.append(clock.now_s))
    clock.run()
    assert ended_s == pytest.approx([10.0, 10.0])


def test_a_canceled_transfer_makes_way() -> None:
    clock = Clock()
    link = Link(clock, 10.0, Discipline.FCFS)
    ended_s: list[float] = []
    first = link.send(1_000, lambda: ended_s.append(clock.now_s))
    link.send(10, lambda: ended_s.append(clock.now_s))
    clock.at(5.0, lambda: link.cancel(first))
    clock.run()
    assert ended_s == pytest.approx([6.0])


@given(
    sizes=st.lists(st.tuples(st.floats(0, 50), st.floats(1, 500)), min_size=1, max_size=12),
    discipline=st.sampled_from(Discipline),
    most=st.sampled_from([2.0, 10.0, float("inf")]),
)
def test_bytes_never_exceed_the_bandwidth(
    sizes: list[tuple[float, float]], discipline: Discipline, most: float
) -> None:
    ended_s = _send_all(sizes, discipline, most=most)
    assert len(ended_s) == len(sizes)
    for number, (at_s, num_bytes) in enumerate(sizes):
        # The last half byte counts as rounding.
        assert ended_s[number] >= at_s + (num_bytes - 0.5) / min(10.0, most) - 1e-3
    # Nor in sum, from any arrival to any end.
    for start_s, _ in sizes:
        for end_s in ended_s.values():
            passed = sum(
                size for number, (at_s, size) in enumerate(sizes) if at_s >= start_s and ended_s[number] <= end_s
            )
            assert passed <= 10.0 * max(0.0, end_s - start_s) + 1.0 * len(sizes)
