"""The pool as one process sees it: leases, eviction, images."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loaders.errors import (
    ContentDiscardedError,
    ContentMissingError,
    PoolBusyError,
    PoolError,
    PoolMismatchError,
)
from loaders.memory.contents import Contents, LeaseRecord
from loaders.memory.lease import ContentLease
from loaders.memory.pages import PageKind
from loaders.memory.pool import Pool
from loaders.memory.pool_memory import PoolMemory, create_memory
from loaders.memory.records import ContentKey, PoolUsage
from loaders.memory.releasing import release
from tests.support.processes import wait_until

_CHUNK = 4096
_NUM_CHUNKS = 12
A, B, C, D = (ContentKey(name) for name in "abcd")


@pytest.fixture
def pool(folder: Path) -> Iterator[Pool]:
    with Pool.open(folder, _NUM_CHUNKS * _CHUNK, _CHUNK) as pool:
        yield pool
        pool.check()


def _leased(pool: Pool, key: ContentKey, num_bytes: int) -> ContentLease:
    lease = pool.lease(key, num_bytes)
    assert lease is not None
    return lease


def _fill(lease: ContentLease) -> list[int]:
    """Fill what is missing with bytes that tell the chunks apart; returns the chunks that were filled."""
    filled = []
    while claimed := lease.claim():
        for index in claimed:
            lease.chunk(index)[:] = bytes([index + 1]) * _CHUNK
            lease.filled(index)
            filled.append(index)
    return filled


def _keep(pool: Pool, key: ContentKey, num_chunks: int) -> None:
    with _leased(pool, key, num_chunks * _CHUNK) as lease:
        _fill(lease)


def _keys(pool: Pool) -> set[str]:
    return {record.key for record in pool.contents()}


def test_what_was_filled_once_is_there_for_the_next_lease(pool: Pool) -> None:
    with _leased(pool, A, 2 * _CHUNK + 7) as lease:
        assert not lease.is_complete
        assert _fill(lease) == [0, 1, 2]
        assert lease.is_complete
    with _leased(pool, A, 2 * _CHUNK + 7) as again:
        assert again.is_complete
        assert not again.claim()
        assert again.wait(0) == {0, 1, 2}
        assert bytes(again.map_image().view[: again.num_bytes]) == b"\1" * _CHUNK + b"\2" * _CHUNK + b"\3" * 7


def test_contents_outlive_the_processes_that_filled_them(folder: Path) -> None:
    with Pool.open(folder, _NUM_CHUNKS * _CHUNK, _CHUNK) as pool:
        _keep(pool, A, 3)
    with Pool.open(folder, _NUM_CHUNKS * _CHUNK, _CHUNK) as pool, _leased(pool, A, 3 * _CHUNK) as lease:
        assert lease.is_complete
        assert lease.map_image().view[2 * _CHUNK] == 3


def test_two_leases_share_one_content_and_fill_each_chunk_once(pool: Pool) -> None:
    with _leased(pool, A, 4 * _CHUNK) as first, _leased(pool, A, 4 * _CHUNK) as second:
        assert [*first.claim(), *second.claim(), *second.claim()] == [0, 1, 2]
        second.filled(1)
        with pytest.raises(PoolError, match="chunk 2 is not claimed"):
            first.filled(2)
        with pytest.raises(PoolError, match="chunk 2 is not claimed"):
            first.give_back(2)
        second.give_back(2)
        assert list(first.claim()) == [2]
        assert first.wait(1) == {1}
        assert first.wait(0) == set()
        first.filled(2)
        first.filled(0)
        assert second.wait(1) == {0, 1, 2}


def test_a_lease_that_ends_gives_its_claims_back(pool: Pool) -> None:
    with _leased(pool, A, 2 * _CHUNK) as first:
        with _leased(pool, A, 2 * _CHUNK) as second:
            assert list(second.claim()) == [0]
        assert list(first.claim()) == [0]


def test_waiting_ends_when_another_thread_fills(pool: Pool) -> None:
    with _leased(pool, A, _CHUNK) as lease, _leased(pool, A, _CHUNK) as other:
        assert list(other.claim()) == [0]
        thread = threading.Timer(0.05, other.filled, [0])
        thread.start()
        assert lease.wait(30) == {0}
        thread.join()


def test_the_least_recently_used_content_leaves_first(pool: Pool) -> None:
    for key in (A, B, C):
        _keep(pool, key, 4)
    _keep(pool, A, 4)
    _keep(pool, D, 3)
    assert _keys(pool) == {A, C, D}


def test_no_more_is_evicted_than_is_needed(pool: Pool) -> None:
    for key in (A, B, C):
        _keep(pool, key, 3)
    _keep(pool, D, 4)
    assert _keys(pool) == {B, C, D}


def test_what_is_leased_or_pinned_stays(pool: Pool) -> None:
    _keep(pool, A, 4)
    pool.pin(A)
    with _leased(pool, B, 4 * _CHUNK):
        _keep(pool, C, 4)
        assert pool.lease(D, 5 * _CHUNK) is None
        assert _keys(pool) == {A, B, C}
        _keep(pool, D, 4)
        assert _keys(pool) == {A, B, D}
        pool.unpin(A)
        with _leased(pool, ContentKey("e"), 8 * _CHUNK):
            assert _keys(pool) == {B, "e"}


def test_what_is_larger_than_the_pool_gets_no_lease_and_costs_nothing(pool: Pool) -> None:
    _keep(pool, A, 4)
    assert pool.lease(B, _NUM_CHUNKS * _CHUNK + 1) is None
    assert _keys(pool) == {A}


def test_an_image_of_scattered_chunks_shows_them_in_order_and_keeps_what_is_written_to_it_to_itself(pool: Pool) -> None:
    held = [_leased(pool, ContentKey(str(number)), _CHUNK) for number in range(_NUM_CHUNKS)]
    for number in (1, 2, 5, 9):
        held[number].close()
    with _leased(pool, A, 4 * _CHUNK - 5) as lease:
        _fill(lease)
        view = lease.map_image().view
        assert bytes(view) == b"".join(bytes([index + 1]) * _CHUNK for index in range(4))
        lease.chunk(2)[0] = 99
        assert view[2 * _CHUNK] == 99
        view[_CHUNK] = 77
        assert lease.chunk(1)[0] == 2
    for each in held:
        each.close()


@pytest.mark.parametrize("scattered", [False, True])
def test_a_view_of_an_image_outlives_lease_and_pool(folder: Path, *, scattered: bool) -> None:
    with Pool.open(folder, _NUM_CHUNKS * _CHUNK, _CHUNK) as pool:
        others = [_leased(pool, ContentKey(str(number)), _CHUNK) for number in range(_NUM_CHUNKS if scattered else 0)]
        for other in others[::2]:
            other.close()
        with _leased(pool, A, 3 * _CHUNK) as lease:
            _fill(lease)
            view = lease.map_image().view[_CHUNK : 2 * _CHUNK]
        for other in others:
            other.close()
    del pool, lease
    gc.collect()
    assert bytes(view) == b"\2" * _CHUNK


def test_the_last_chunk_has_room_for_a_whole_one(pool: Pool) -> None:
    with _leased(pool, A, _CHUNK + 1) as lease:
        assert len(lease.chunk(1)) == _CHUNK
        assert len(lease.map_image().view) == 2 * _CHUNK
        with pytest.raises(IndexError):
            lease.chunk(2)


def test_a_content_without_bytes_is_complete_at_once(pool: Pool) -> None:
    with _leased(pool, A, 0) as lease:
        assert lease.num_chunks == 0
        assert lease.is_complete
        assert not lease.claim()


def test_a_discarded_content_is_nobody_elses_and_goes_with_its_last_lease(pool: Pool) -> None:
    with _leased(pool, A, 2 * _CHUNK) as first, _leased(pool, A, 2 * _CHUNK) as second:
        _fill(first)
        first.discard()
        with pytest.raises(ContentDiscardedError):
            second.wait(0)
        with pytest.raises(ContentDiscardedError):
            second.claim()
        with _leased(pool, A, 2 * _CHUNK) as fresh:
            assert _fill(fresh) == [0, 1]
            assert pool.usage.leased_bytes == 4 * _CHUNK
    assert pool.usage.evictable_bytes == 2 * _CHUNK


def test_a_content_is_freed_only_when_nobody_leases_it(pool: Pool) -> None:
    with _leased(pool, A, _CHUNK), pytest.raises(PoolBusyError, match="in use by 1 leases"):
        pool.free(A)
    pool.pin(A)
    pool.free(A)
    pool.free(A)
    assert pool.contents() == ()


def test_only_what_is_there_can_be_pinned(pool: Pool) -> None:
    with pytest.raises(ContentMissingError, match="a: not in the pool"):
        pool.pin(A)
    pool.unpin(A)


def test_one_key_has_one_size(pool: Pool) -> None:
    _keep(pool, A, 2)
    with pytest.raises(PoolMismatchError, match="8192 bytes under this key, not 8193"):
        pool.lease(A, 2 * _CHUNK + 1)


def test_records_and_usage_add_up(pool: Pool) -> None:
    _keep(pool, A, 3)
    _keep(pool, B, 2)
    pool.pin(B)
    with _leased(pool, C, _CHUNK + 5) as lease:
        assert list(lease.claim()) == [0]
        lease.give_back(0)
        assert [*lease.claim(), *lease.claim()] == [0, 1]
        lease.filled(1)
        assert pool.usage == PoolUsage(
            free_bytes=5 * _CHUNK, evictable_bytes=3 * _CHUNK, leased_bytes=2 * _CHUNK, pinned_bytes=2 * _CHUNK
        )
        records = pool.contents()
        assert [record.key for record in records] == [C, B, A]
        assert [record.filled_bytes for record in records] == [5, 2 * _CHUNK, 3 * _CHUNK]
        assert [record.num_leases for record in records] == [1, 0, 0]
        assert [record.pinned for record in records] == [False, True, False]
        assert records[0].last_use_s >= records[1].last_use_s >= records[2].last_use_s


def test_closing_the_pool_ends_its_leases(folder: Path) -> None:
    first = Pool.open(folder, _NUM_CHUNKS * _CHUNK, _CHUNK)
    with Pool.open(folder, _NUM_CHUNKS * _CHUNK, _CHUNK) as second:
        lease = _leased(first, A, _CHUNK)
        assert list(lease.claim()) == [0]
        first.close()
        first.close()
        lease.close()
        assert second.usage.leased_bytes == 0
        with pytest.raises(PoolError, match="closed"):
            first.lease(A, _CHUNK)
        with pytest.raises(PoolError, match="closed"):
            lease.claim()


def test_a_lease_that_is_forgotten_warns(pool: Pool) -> None:
    lease = _leased(pool, A, _CHUNK)
    with pytest.warns(ResourceWarning, match="ContentLease a 4096 bytes in 1 extents"):
        del lease


def test_a_forked_process_has_no_share_in_the_pool_and_takes_none_away(pool: Pool) -> None:
    lease = _leased(pool, A, _CHUNK)
    child = os.fork()
    if child == 0:
        refused = False
        try:
            pool.contents()
        except PoolError:
            refused = True
        lease.close()
        pool.close()
        os._exit(0 if refused else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.usage.leased_bytes == _CHUNK
    lease.close()


def test_pages_are_made_once_and_the_next_process_finds_them(folder: Path) -> None:
    with Pool.open(folder, _NUM_CHUNKS * _CHUNK, _CHUNK) as pool:
        pool.prepare()
        pool.view[5 * _CHUNK] = 8
        with Pool.open(folder, _NUM_CHUNKS * _CHUNK, _CHUNK) as other:
            other.prepare()
            assert other.view[5 * _CHUNK] == 8
        assert Path(folder / "memory").stat().st_blocks * 512 >= pool.capacity_bytes


def test_preparing_stops_when_it_is_canceled(folder: Path) -> None:
    with Pool.open(folder, _NUM_CHUNKS * _CHUNK, _CHUNK) as pool:
        canceled = threading.Event()
        canceled.set()
        pool.prepare(canceled)
        assert Path(folder / "memory").stat().st_blocks == 0


def test_threads_that_share_a_lease_fill_each_chunk_once(pool: Pool) -> None:
    with _leased(pool, A, _NUM_CHUNKS * _CHUNK) as lease:
        filled: list[list[int]] = [[] for _ in range(4)]
        threads = [threading.Thread(target=lambda own=own: own.extend(_fill(lease))) for own in filled]
        for thread in threads:
            thread.start()
        heard: set[int] = set()
        deadline = time.monotonic() + 30
        while len(heard) < _NUM_CHUNKS and time.monotonic() < deadline:
            heard |= lease.wait(1)
        for thread in threads:
            thread.join()
        assert sorted(itertools.chain(*filled)) == list(range(_NUM_CHUNKS))
        assert heard == set(range(_NUM_CHUNKS))


@pytest.mark.parametrize(("capacity_bytes", "chunk_bytes"), [(_CHUNK, 0), (_CHUNK, 1000), (_CHUNK - 1, _CHUNK)])
def test_chunks_are_whole_pages_and_a_pool_has_one(folder: Path, capacity_bytes: int, chunk_bytes: int) -> None:
    with pytest.raises(ValueError, match="no pool"):
        Pool.open(folder, capacity_bytes, chunk_bytes)


def test_an_image_that_is_copied_on_write_leaves_the_pool_as_it_is(pool: Pool) -> None:
    with _leased(pool, A, 2 * _CHUNK) as lease:
        with lease.map_image() as image:
            _fill(lease)
            assert image.view[_CHUNK] == 2
            image.view[0] = 99
        assert lease.chunk(0)[0] == 1


def test_a_lease_that_could_not_be_given_back_is_given_back_later(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, give_back, refused = _leased(pool, A, _CHUNK), Contents.release, list[LeaseRecord]()

    def refuse_once(self: Contents, record: LeaseRecord) -> None:
        if not refused:
            refused.append(record)
            raise PoolBusyError("somebody is stuck in a transaction")
        give_back(self, record)

    monkeypatch.setattr(Contents, "release", refuse_once)
    release(lease)
    wait_until(lambda: [content.num_leases for content in pool.contents()] in ([], [0]), "the lease is given back", 10)
    assert refused


def test_an_image_on_hugetlbfs_has_its_pages_before_anybody_looks_at_it(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    shape = create_memory(folder, _NUM_CHUNKS * _CHUNK, _CHUNK)
    memory = PoolMemory(replace(shape, page_kind=PageKind.HUGETLB))
    memory.assemble([3, 4], copy_on_write=True).close()
    assert Path(shape.memory).stat().st_blocks * 512 == 2 * _CHUNK
    memory.close()
