"""Where contents go and which have to leave for them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loaders.memory.allocation import Allocation, Extent, Occupied, allocate


def _held(start: int, num_chunks: int, content_id: int, last_use_s: float = 0.0, *, evictable: bool = True) -> Occupied:
    return Occupied(
        extent=Extent(start=start, num_chunks=num_chunks),
        content_id=content_id,
        last_use_s=last_use_s,
        evictable=evictable,
    )


def _places(allocation: Allocation | None) -> list[tuple[int, int]] | None:
    return None if allocation is None else [(extent.start, extent.num_chunks) for extent in allocation.extents]


def test_the_smallest_free_run_that_fits_is_taken() -> None:
    held = [_held(4, 1, 1), _held(7, 1, 2)]
    assert _places(allocate(2, 20, held)) == [(5, 2)]
    assert _places(allocate(3, 20, held)) == [(0, 3)]


def test_nothing_is_evicted_while_enough_is_free_though_it_is_scattered() -> None:
    allocation = allocate(4, 8, [_held(2, 2, 1), _held(6, 2, 2)])
    assert allocation == Allocation(extents=(Extent(start=0, num_chunks=2), Extent(start=4, num_chunks=2)))


def test_the_run_whose_contents_are_unused_for_longest_is_evicted() -> None:
    held = [_held(0, 3, 1, 5.0), _held(3, 3, 2, 1.0), _held(6, 3, 3, 2.0)]
    assert allocate(3, 9, held) == Allocation(extents=(Extent(start=3, num_chunks=3),), evicted=frozenset({2}))
    assert allocate(4, 9, held) == Allocation(extents=(Extent(start=3, num_chunks=4),), evicted=frozenset({2, 3}))


def test_one_run_is_not_worth_more_evictions_than_pieces() -> None:
    held = [_held(0, 3, 1, 1.0), _held(3, 3, 2, 2.0), _held(6, 3, 3, 3.0)]
    allocation = allocate(4, 12, held)
    assert _places(allocation) == [(0, 3), (9, 1)]
    assert allocation is not None
    assert allocation.evicted == {1}


def test_free_chunks_beside_a_content_count_for_the_run() -> None:
    held = [_held(0, 2, 1, 1.0), _held(4, 2, 2, 9.0)]
    assert allocate(5, 6, held) is not None
    assert allocate(3, 6, [_held(0, 2, 1, 1.0), _held(3, 3, 2, evictable=False)]) == Allocation(
        extents=(Extent(start=0, num_chunks=3),), evicted=frozenset({1})
    )


def test_pieces_are_taken_when_what_is_kept_stands_between() -> None:
    held = [_held(0, 2, 1, 1.0), _held(2, 1, 2, evictable=False), _held(3, 2, 3, 2.0)]
    allocation = allocate(3, 5, held)
    assert _places(allocation) == [(0, 2), (3, 1)]
    assert allocation is not None
    assert allocation.evicted == {1, 3}


def test_contents_that_turn_out_not_to_be_needed_stay() -> None:
    held = [_held(0, 1, 1, 1.0), _held(1, 1, 9, evictable=False), _held(2, 3, 2, 2.0), _held(5, 1, 8, evictable=False)]
    allocation = allocate(3, 6, held)
    assert allocation is not None
    assert allocation.evicted == {2}
    assert allocate(7, 6, held) is None


@st.composite
def _pools(draw: st.DrawFn) -> tuple[int, list[Occupied]]:
    pool_chunks = draw(st.integers(1, 24))
    num_contents = draw(st.integers(1, 6))
    facts = {
        content_id: (float(draw(st.integers(0, 3))), draw(st.booleans())) for content_id in range(1, num_contents + 1)
    }
    held = []
    start = 0
    while start < pool_chunks:
        length = draw(st.integers(1, 4))
        content_id = draw(st.integers(0, num_contents))
        length = min(length, pool_chunks - start)
        if content_id:
            last_use_s, evictable = facts[content_id]
            held.append(_held(start, length, content_id, last_use_s, evictable=evictable))
        start += length
    return pool_chunks, held


@given(_pools(), st.integers(0, 26))
def test_what_is_given_is_free_or_evicted_and_nothing_leaves_without_need(
    pool: tuple[int, list[Occupied]], num_chunks: int
) -> None:
    pool_chunks, held = pool
    allocation = allocate(num_chunks, pool_chunks, held)
    kept_chunks = sum(each.extent.num_chunks for each in held if not each.evictable)
    assert (allocation is None) == (num_chunks > pool_chunks - kept_chunks)
    if allocation is None:
        return
    given_chunks = [chunk for extent in allocation.extents for chunk in range(extent.start, extent.stop)]
    assert len(given_chunks) == len(set(given_chunks)) == num_chunks
    assert all(0 <= chunk < pool_chunks for chunk in given_chunks)
    assert allocation.evicted <= {each.content_id for each in held if each.evictable}
    kept = {
        chunk
        for each in held
        if each.content_id not in allocation.evicted
        for chunk in range(each.extent.start, each.extent.stop)
    }
    assert not kept & set(given_chunks)
    held_chunks = sum(each.extent.num_chunks for each in held)
    if num_chunks <= pool_chunks - held_chunks:
        assert not allocation.evicted
    for victim in allocation.evicted:
        own = {c for each in held if each.content_id == victim for c in range(each.extent.start, each.extent.stop)}
        assert own & set(given_chunks)
