"""A lease on a content of the pool: what lets a process read the content, and fill what is missing of it."""

from __future__ import annotations

import time
import warnings
from bisect import bisect_right
from itertools import accumulate
from types import TracebackType
from typing import Self

from loaders.errors import PoolError
from loaders.memory.contents import Contents, LeaseRecord
from loaders.memory.database import Database
from loaders.memory.fills import Fills
from loaders.memory.mapping import Mapping
from loaders.memory.pool_memory import PoolMemory
from loaders.memory.processes import ProcessFile
from loaders.memory.records import ContentKey
from loaders.memory.sweeping import sweep_if_needed

#: A chunk of 16 MiB takes some milliseconds from any disk; a look costs some 20 µs.
_POLL_S = 0.002
#: How long a dead filler may keep the others waiting.
_SWEEP_S = 0.05


class ContentLease:
    """A share in one content; dies with the process. Threads may share it.

    Whoever holds a lease keeps the content where it is. Chunks are filled by those who hold leases: `claim` one, write
    it through `chunk`, check it, say `filled`; `wait` tells what others have filled.
    """

    def __init__(
        self, database: Database, process: ProcessFile, contents: Contents, memory: PoolMemory, record: LeaseRecord
    ) -> None:
        """Hold what the directory has granted; `Pool.lease` is how to get one."""
        self._database = database
        self._process = process
        self._contents = contents
        self._memory = memory
        self._record = record
        self._fills = Fills(database, record)
        self._ends = list(accumulate(extent.num_chunks for extent in record.extents))
        # Both for the one thread that waits: the point in the order of filling that it has heard of, and when it
        # looks for dead fillers next.
        self._heard = 0
        self._sweep_at = time.monotonic() + _SWEEP_S
        self._complete = False
        self._closed = False

    @property
    def key(self) -> ContentKey:
        """The content's key."""
        return self._record.key

    @property
    def num_bytes(self) -> int:
        """Size of the content."""
        return self._record.num_bytes

    @property
    def num_chunks(self) -> int:
        """How many chunks the content has."""
        return self._ends[-1] if self._ends else 0

    @property
    def is_complete(self) -> bool:
        """Whether all chunks are filled."""
        if not self._complete:
            self._complete = self._fills.is_complete()
        return self._complete

    def chunk(self, index: int) -> memoryview:
        """The memory of one chunk in the pool's own mapping, always whole: the last one has room after the content.

        Registered with a gpu if the pool's mapping is. Write to it only while it is claimed.
        """
        self._check_open()
        return self._memory.chunk(self._slot(index))

    def map_image(self) -> Mapping:
        """Map the content in order, copy on write: what is written to it is seen nowhere else. Raises PoolError.

        Whole chunks, which appear in it as they are filled; nothing is mapped page by page beforehand. It stays mapped
        as long as any view of it lives, and stays the content only while the lease is held. Its addresses are its own
        and not registered with any gpu: copy from `chunk` there.
        """
        self._check_open()
        return self._memory.assemble([self._slot(index) for index in range(self.num_chunks)], copy_on_write=True)

    def claim(self, limit: int = 1) -> range:
        """Take chunks that nobody fills, the first there are and one behind the other; empty if there is none now.

        Raises ContentDiscardedError, and PoolSpaceError when the machine has no memory left for them.
        """
        self._check_open()
        claimed = range(0) if self._complete else self._fills.claim(limit)
        try:
            for slot in map(self._slot, claimed):
                self._memory.make_resident(slot, slot + 1)
        except PoolError:
            for index in claimed:
                self._fills.give_back(index)
            raise
        return claimed

    def filled(self, index: int) -> None:
        """Say that the bytes of a claimed chunk are there and checked. Raises PoolError if it is not ours."""
        self._fills.filled(index)

    def give_back(self, index: int) -> None:
        """Let others claim a chunk that we claimed and did not fill. Raises PoolError if it is not ours."""
        self._fills.give_back(index)

    def wait(self, timeout_s: float) -> set[int]:
        """Chunks filled since the last call, by whoever; the first call tells of all. One thread may wait.

        Returns an empty set after the time, and early when a filler has died and left chunks to be claimed.
        Raises ContentDiscardedError.
        """
        self._check_open()
        deadline = time.monotonic() + timeout_s
        while True:
            news = self._fills.filled_since(self._heard)
            self._heard = news.upto
            now = time.monotonic()
            if news.positions:
                return news.positions
            swept = False
            if now >= self._sweep_at:
                self._sweep_at = now + _SWEEP_S
                swept = sweep_if_needed(self._database, self._process)
            if swept or now >= deadline:
                return set()
            time.sleep(min(_POLL_S, deadline - now))

    def discard(self) -> None:
        """Say that the content is wrong: nobody else gets it, and all who share it hear of it when they claim or wait.

        Its chunks are freed when the last lease on it is closed.
        """
        self._check_open()
        self._contents.discard(self._record)

    def close(self) -> None:
        """Give the lease back, and the chunks that were claimed through it; idempotent.

        Raises PoolError, and holds the lease as before, while the directory of the pool cannot be written to.
        """
        if self._closed:
            return
        if self._process.is_owner and not self._process.is_closed:
            self._contents.release(self._record)
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and self._process.is_owner and not self._process.is_closed:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, stacklevel=2)

    def __repr__(self) -> str:
        return f"<ContentLease {self.key} {self.num_bytes} bytes in {len(self._record.extents)} extents>"

    def _check_open(self) -> None:
        if self._closed:
            raise PoolError(f"{self.key}: the lease is closed")

    def _slot(self, index: int) -> int:
        """Which chunk of the pool is a chunk of the content."""
        if not 0 <= index < self.num_chunks:
            raise IndexError(f"{self.key}: no chunk {index} of {self.num_chunks}")
        place = bisect_right(self._ends, index)
        extent = self._record.extents[place]
        return extent.stop - (self._ends[place] - index)
