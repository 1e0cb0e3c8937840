"""What other processes do to a pool in tests: each function is the main program of one."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from loaders.errors import ContentDiscardedError
from loaders.memory.lease import ContentLease
from loaders.memory.pool import Pool
from loaders.memory.ranking import LoadClass
from loaders.memory.records import ContentKey

CHUNK_BYTES = 4096
NUM_CHUNKS = 32

# Children are forked from a server that has imported this, in milliseconds, and never from a process with threads.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


@contextmanager
def running(target: Callable[..., None], *arguments: object) -> Iterator[BaseProcess]:
    """Run a function of this module in a process of its own; it is dead afterwards."""
    child = _context.Process(target=target, args=arguments, daemon=True)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def open_pool(folder: Path) -> Pool:
    """The pool that all children use."""
    return Pool.open(folder, NUM_CHUNKS * CHUNK_BYTES, CHUNK_BYTES)


def pattern(key: str, index: int) -> bytes:
    """What belongs into a chunk."""
    return random.Random(f"{key}/{index}").randbytes(CHUNK_BYTES)


def fill(folder: Path, key: str, num_chunks: int, kill_at: int | None = None) -> None:
    """Fill a content together with others; kill -9 at a step of ours. `<key>.log` gets a line per filled chunk."""
    step = 0

    def reached() -> None:
        nonlocal step
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        step += 1

    reached()
    with open_pool(folder) as pool, leased(pool, key, num_chunks) as lease:
        reached()
        while not lease.is_complete:
            claimed = lease.claim(2)
            if not claimed:
                lease.wait(0.02)
                continue
            reached()
            for index in claimed:
                half = CHUNK_BYTES // 2
                lease.chunk(index)[:half] = pattern(key, index)[:half]
                reached()
                lease.chunk(index)[half:] = pattern(key, index)[half:]
                lease.filled(index)
                with (folder.parent / f"{key}.log").open("a") as log:
                    log.write(f"{index}\n")
                reached()


def hammer(folder: Path, seed: int, num_rounds: int) -> None:
    """Lease, fill, look at and discard contents of all sizes; exit with 1 if one is not what it should be."""
    chance = random.Random(seed)
    with open_pool(folder) as pool:
        for _ in range(num_rounds):
            number = chance.randrange(12)
            key = ContentKey(str(number))
            lease = pool.lease(key, (1 + number) * CHUNK_BYTES)
            if lease is None:
                continue
            with lease, suppress(ContentDiscardedError):
                _fill_some(lease, chance)
                expected = b"".join(pattern(key, index) for index in range(lease.num_chunks))
                if lease.is_complete and bytes(lease.map_image().view[: len(expected)]) != expected:
                    os._exit(1)
                if chance.random() < 0.05:
                    lease.discard()


def _fill_some(lease: ContentLease, chance: random.Random) -> None:
    while not lease.is_complete and chance.random() < 0.95:
        claimed = lease.claim(chance.randrange(1, 4))
        if not claimed:
            lease.wait(0.01)
        for index in claimed:
            if chance.random() < 0.1:
                lease.give_back(index)
            else:
                lease.chunk(index)[:] = pattern(lease.key, index)
                lease.filled(index)


def hold(folder: Path, ready: Path) -> None:
    """Hold a lease, a claim and a ticket until killed."""
    pool = open_pool(folder)
    lease = leased(pool, "held", 4)
    lease.claim()
    ticket = pool.load_queue.join("load_of_child", ContentKey("held"), LoadClass.DEMAND, 4 * CHUNK_BYTES)
    assert ticket.may_read()
    ready.touch()
    signal.pause()


def prepare(folder: Path, ready: Path) -> None:
    """Make the pool's pages."""
    with open_pool(folder) as pool:
        ready.touch()
        pool.prepare()


def leased(pool: Pool, key: str, num_chunks: int) -> ContentLease:
    """A lease that fits."""
    lease = pool.lease(ContentKey(key), num_chunks * CHUNK_BYTES)
    assert lease is not None
    return lease
