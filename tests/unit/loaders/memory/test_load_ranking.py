"""The order in which loads use a node's disk."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from loaders.memory.ranking import LoadClass, LoadRecord, may_read, rank
from loaders.memory.records import ContentKey

_GB = 10**9


def _load(ticket: int, remaining_bytes: int, arrived_s: float = 100.0, **changes: object) -> LoadRecord:
    load = LoadRecord(
        ticket=ticket,
        load_id=f"load_{ticket}",
        key=ContentKey(f"content_{ticket}"),
        load_class=LoadClass.DEMAND,
        total_bytes=60 * _GB,
        remaining_bytes=remaining_bytes,
        arrived_s=arrived_s,
        started_s=None,
        progressed_s=arrived_s,
    )
    return replace(load, **changes)


def _order(*loads: LoadRecord, now_s: float = 100.0) -> list[int]:
    return [load.ticket for load in rank(loads, now_s)]


def test_of_loads_of_one_age_the_one_with_least_left_goes_first() -> None:
    assert _order(_load(1, 3 * _GB), _load(2, 1 * _GB), _load(3, 2 * _GB)) == [2, 3, 1]


def test_of_equal_loads_the_first_goes_first() -> None:
    assert _order(_load(2, _GB), _load(1, _GB)) == [1, 2]


def test_a_load_that_waits_overtakes_smaller_ones_that_arrive_later() -> None:
    large = _load(1, 60 * _GB)
    assert _order(large, _load(2, 13 * _GB)) == [2, 1]
    assert _order(large, _load(2, 13 * _GB, 140.0), now_s=140.0) == [1, 2]


def test_somebody_waiting_goes_before_any_prefetch() -> None:
    prefetch = _load(1, 1, 0.0, load_class=LoadClass.PREFETCH)
    assert _order(prefetch, _load(2, 60 * _GB)) == [2, 1]


def test_the_next_reads_when_those_before_have_nothing_left_to_read() -> None:
    small, large = _load(1, _GB), _load(2, 9 * _GB)
    assert may_read(1, [small, large], 100.0)
    assert not may_read(2, [small, large], 100.0)
    assert may_read(2, [replace(small, remaining_bytes=0), large], 100.0)


def test_a_load_that_stands_still_holds_nobody_up() -> None:
    stopped, large = _load(1, _GB), _load(2, 9 * _GB)
    assert not may_read(2, [stopped, large], 100.9)
    assert may_read(2, [stopped, large], 101.1)


def test_a_load_that_is_not_listed_may_read() -> None:
    assert may_read(7, [_load(1, _GB)], 100.0)


def test_the_rate_counts_from_the_first_turn() -> None:
    load = _load(1, 50 * _GB)
    assert load.bytes_per_s(110.0) == 0
    assert replace(load, started_s=105.0).bytes_per_s(110.0) == 2 * _GB


@given(st.lists(st.tuples(st.integers(0, 60 * _GB), st.floats(0, 100), st.sampled_from(LoadClass)), min_size=1))
def test_somebody_may_read_whenever_anybody_has_something_to_read(
    loads: list[tuple[int, float, LoadClass]],
) -> None:
    records = [
        _load(ticket, remaining, arrived_s, load_class=load_class)
        for ticket, (remaining, arrived_s, load_class) in enumerate(loads)
    ]
    with_work = [record for record in records if record.remaining_bytes > 0]
    assert not with_work or any(may_read(record.ticket, records, 100.0) for record in with_work)
