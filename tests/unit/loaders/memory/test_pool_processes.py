"""A pool that several processes share, any of which may die at any point."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from loaders.memory.pool import Pool
from loaders.memory.pool_folder import remove_pool
from loaders.memory.ranking import LoadClass
from loaders.memory.records import ContentKey
from tests.support import pool_children as children
from tests.support.pool_children import CHUNK_BYTES, leased, pattern, running
from tests.support.processes import wait_until

_NUM_CHUNKS = 6
#: Before it opens, after its lease, and three per chunk: claimed, half written, filled.
_NUM_STEPS = 2 + 3 * _NUM_CHUNKS
_TIMEOUT_S = 60.0


def _filled(folder: Path, key: str = "content") -> list[int]:
    return [int(line) for line in (folder.parent / f"{key}.log").read_text().split()]


def _check(pool: Pool, key: str = "content") -> None:
    """The pool is sound and the content is whole, with nobody left on it."""
    pool.check()
    assert pool.usage.leased_bytes == 0
    with leased(pool, key, _NUM_CHUNKS) as lease:
        assert lease.is_complete
        assert bytes(lease.map_image().view) == b"".join(pattern(key, index) for index in range(_NUM_CHUNKS))


def test_two_processes_that_want_one_content_fill_each_chunk_once(folder: Path) -> None:
    with ExitStack() as stack:
        both = [stack.enter_context(running(children.fill, folder, "content", _NUM_CHUNKS)) for _ in range(2)]
        for child in both:
            child.join(_TIMEOUT_S)
            assert child.exitcode == 0
    assert sorted(_filled(folder)) == list(range(_NUM_CHUNKS))
    with children.open_pool(folder) as pool:
        _check(pool)


@pytest.mark.parametrize("step", range(_NUM_STEPS))
def test_kill_9_at_any_step_leaves_the_other_correct(folder: Path, step: int) -> None:
    with (
        running(children.fill, folder, "content", _NUM_CHUNKS, step) as victim,
        running(children.fill, folder, "content", _NUM_CHUNKS) as other,
    ):
        other.join(_TIMEOUT_S)
        victim.join(_TIMEOUT_S)
        assert other.exitcode == 0
        # It may have been left nothing to do before it came to that step.
        assert victim.exitcode in {0, -signal.SIGKILL}
    with children.open_pool(folder) as pool:
        _check(pool)


def test_kill_9_at_any_time_leaves_a_pool_that_the_next_process_can_use(folder: Path) -> None:
    chance = random.Random(7)
    with children.open_pool(folder) as pool:
        for round_number in range(12):
            key = f"content-{round_number}"
            with ExitStack() as stack:
                fillers = [stack.enter_context(running(children.fill, folder, key, _NUM_CHUNKS)) for _ in range(2)]
                time.sleep(chance.uniform(0, 0.04))
                fillers[0].kill()
                fillers[1].join(_TIMEOUT_S)
                assert fillers[1].exitcode == 0
            _check(pool, key)


def test_leases_claims_and_tickets_of_the_dead_come_back(folder: Path, tmp_path: Path) -> None:
    with children.open_pool(folder) as pool, leased(pool, "held", 4) as lease:
        with running(children.hold, folder, tmp_path / "ready") as child:
            wait_until((tmp_path / "ready").exists, "the child holds what it wants")
            assert list(lease.claim()) == [1]
            lease.give_back(1)
            with pool.load_queue.join("load_of_parent", ContentKey("other"), LoadClass.DEMAND, 1 << 30) as ticket:
                assert [load.load_id for load in pool.load_queue.loads()] == ["load_of_child", "load_of_parent"]
                assert not ticket.may_read()
                child.kill()
                child.join()
                wait_until(ticket.may_read, "the turn of the living", 0.9)
        assert pool.load_queue.loads() == ()
        lease.wait(0.2)
        assert [list(lease.claim()) for _ in range(5)] == [[0], [1], [2], [3], []]
        (record,) = pool.contents()
        assert record.num_leases == 1
        pool.check()


def test_processes_that_want_more_than_there_is_never_get_each_others_bytes(folder: Path) -> None:
    with ExitStack() as stack:
        hammers = [stack.enter_context(running(children.hammer, folder, seed, 150)) for seed in range(4)]
        for child in hammers:
            child.join(_TIMEOUT_S)
            assert child.exitcode == 0
    with children.open_pool(folder) as pool:
        pool.check()
        assert pool.usage.leased_bytes == 0


def test_whoever_prepares_the_pool_may_die(folder: Path, tmp_path: Path) -> None:
    with children.open_pool(folder) as pool:
        with running(children.prepare, folder, tmp_path / "ready"):
            wait_until((tmp_path / "ready").exists, "the child prepares")
        pool.prepare()
        assert (folder / "memory").stat().st_blocks * 512 >= pool.capacity_bytes


def test_processes_that_come_at_the_same_time_make_one_pool(folder: Path) -> None:
    for _ in range(3):
        with ExitStack() as stack:
            all_children = [stack.enter_context(running(children.fill, folder, str(number), 2)) for number in range(4)]
            for child in all_children:
                child.join(_TIMEOUT_S)
                assert child.exitcode == 0
        with children.open_pool(folder) as pool:
            pool.check()
            assert pool.num_chunks == children.NUM_CHUNKS
            assert {record.key for record in pool.contents()} == {"0", "1", "2", "3"}
            assert all(record.filled_bytes == 2 * CHUNK_BYTES for record in pool.contents())
        remove_pool(folder)
