"""The queue of a node's disk, as loads use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loaders.memory.load_queue import LoadQueue
from loaders.memory.pool import Pool
from loaders.memory.ranking import LoadClass
from loaders.memory.records import ContentKey
from tests.support.processes import wait_until

_MB = 10**6


@pytest.fixture
def queue(folder: Path) -> Iterator[LoadQueue]:
    with Pool.open(folder, 4 * 4096, 4096) as pool:
        yield pool.load_queue


def _names(queue: LoadQueue) -> list[str]:
    return [load.load_id for load in queue.loads()]


def test_a_load_that_is_alone_may_read(queue: LoadQueue) -> None:
    with queue.join("load", ContentKey("a"), LoadClass.PREFETCH, 5 * _MB) as ticket:
        assert ticket.may_read()


def test_the_smaller_load_reads_first_and_the_next_when_it_has_read_all(queue: LoadQueue) -> None:
    with (
        queue.join("large", ContentKey("a"), LoadClass.DEMAND, 50 * _MB) as large,
        queue.join("small", ContentKey("b"), LoadClass.DEMAND, 5 * _MB) as small,
    ):
        assert _names(queue) == ["small", "large"]
        assert small.may_read()
        assert not large.may_read()
        small.update(0)
        wait_until(large.may_read, "the next load's turn", 0.9)


def test_a_load_that_has_left_holds_nobody_up(queue: LoadQueue) -> None:
    with queue.join("large", ContentKey("a"), LoadClass.DEMAND, 50 * _MB) as large:
        small = queue.join("small", ContentKey("b"), LoadClass.DEMAND, 5 * _MB)
        assert not large.may_read()
        small.close()
        small.close()
        wait_until(large.may_read, "the next load's turn", 0.9)
    assert _names(queue) == []


def test_the_listing_says_how_far_a_load_is(queue: LoadQueue) -> None:
    with queue.join("load", ContentKey("a"), LoadClass.DEMAND, 5 * _MB) as ticket:
        assert ticket.may_read()
        ticket.update(3 * _MB)
        (load,) = queue.loads()
        assert (load.key, load.load_class) == ("a", LoadClass.DEMAND)
        assert (load.total_bytes, load.remaining_bytes) == (5 * _MB, 3 * _MB)
        assert load.started_s is not None
        assert load.bytes_per_s(load.started_s + 2) == _MB


def test_a_ticket_outlives_its_pool_without_harm(folder: Path) -> None:
    with Pool.open(folder, 4 * 4096, 4096) as pool:
        ticket = pool.load_queue.join("load", ContentKey("a"), LoadClass.DEMAND, _MB)
    ticket.close()
    with Pool.open(folder, 4 * 4096, 4096) as pool:
        assert pool.load_queue.loads() == ()
