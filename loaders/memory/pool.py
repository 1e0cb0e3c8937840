"""The pool of a node: chunks of memory that hold contents, shared by the node's processes, outliving each."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from loaders.errors import PoolError
from loaders.memory.contents import Contents
from loaders.memory.invariants import check_invariants
from loaders.memory.lease import ContentLease
from loaders.memory.load_queue import LoadQueue
from loaders.memory.pages import PageKind
from loaders.memory.pool_folder import PREPARING, JoinedPool, join_pool
from loaders.memory.pool_memory import PoolMemory
from loaders.memory.records import ContentKey, ContentRecord, PoolUsage
from loaders.memory.sweeping import drop_process, sweep
from loaders.memory.syscalls import PAGE_BYTES

#: The chunk of the checkpoint format; large enough that a disk and a system call per chunk cost nothing extra.
CHUNK_BYTES = 16 << 20
#: What is made resident at once: some 0.1 s without a look at `cancel`.
_PIECE_BYTES = 256 << 20
_POLL_S = 0.01


class Cancel(Protocol):
    """What tells a long call to stop, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Whether to stop."""


class Pool:
    """A node's pool as one process has it open. Threads may share it; a forked process opens its own."""

    def __init__(self, folder: Path, joined: JoinedPool) -> None:
        """Map a pool that was joined; `Pool.open` is how to get one."""
        self._folder = folder
        self._process = joined.process
        self._database = joined.database
        self._shape = joined.shape
        self._memory = PoolMemory(joined.shape)
        self._contents = Contents(joined.database, joined.process, joined.shape)
        self._load_queue = LoadQueue(joined.database, joined.process)

    @classmethod
    def open(cls, folder: Path, capacity_bytes: int, chunk_bytes: int = CHUNK_BYTES) -> Self:
        """Open the pool of a folder, made by whichever process comes first; a capacity is rounded down to whole chunks.

        Raises:
            PoolSpaceError: there is no room for a new pool; nothing is left behind.
            PoolMismatchError: the pool that is there has another capacity, chunk size or version.
            PoolCorruptError: its directory is damaged, and other processes have it open.
            PoolError: the folder cannot be used.

        """
        if chunk_bytes <= 0 or chunk_bytes % PAGE_BYTES or capacity_bytes < chunk_bytes:
            raise ValueError(f"no pool of {capacity_bytes} bytes can be made of chunks of {chunk_bytes}")
        joined = join_pool(folder, capacity_bytes, chunk_bytes)
        try:
            return cls(folder, joined)
        except PoolError:
            joined.database.close()
            joined.process.close()
            raise

    @property
    def num_chunks(self) -> int:
        """How many chunks the pool has."""
        return self._shape.num_chunks

    @property
    def chunk_bytes(self) -> int:
        """Bytes of a chunk."""
        return self._shape.chunk_bytes

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all chunks."""
        return self._shape.capacity_bytes

    @property
    def page_kind(self) -> PageKind:
        """What the pool's pages are, or become when they are made."""
        return self._shape.page_kind

    @property
    def address(self) -> int:
        """Where this process has the pool mapped, until it is closed."""
        return self._memory.mapping.address

    @property
    def view(self) -> memoryview:
        """All chunks, as this process has them mapped; the addresses stay mapped as long as a view of them lives."""
        return self._memory.mapping.view

    def on_unmap(self, callback: Callable[[], object]) -> None:
        """Call back before this process unmaps the pool; see `loaders.memory.mapping.Mapping.on_unmap`."""
        self._memory.mapping.on_unmap(callback)

    @property
    def load_queue(self) -> LoadQueue:
        """The loads that use the node's disk, and their order."""
        return self._load_queue

    def prepare(self, cancel: Cancel | None = None) -> None:
        """Make all pages of the pool, once in its life, and this process's page tables to them.

        Takes a second per some GB the first time and next to nothing later, whichever process asks; the pool may be
        used meanwhile. Meant for a thread in the background, before the memory is registered with a gpu.
        Raises PoolSpaceError.
        """
        step = max(1, _PIECE_BYTES // self.chunk_bytes)
        fd = os.open(self._folder / PREPARING, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for start in range(0, self.num_chunks, step):
                stop = min(start + step, self.num_chunks)
                if not self._wait_until_ours(fd, stop, cancel):
                    return
                self._memory.make_resident(start, stop)
                self._note_prepared(stop)
        finally:
            os.close(fd)

    def lease(self, key: ContentKey, num_bytes: int) -> ContentLease | None:
        """Share the content of a key, or make an empty one; None if it does not fit though all that can go goes.

        Raises PoolMismatchError when the key's content has another size.
        """
        record = self._contents.lease(key, num_bytes)
        if record is None:
            return None
        return ContentLease(self._database, self._process, self._contents, self._memory, record)

    def contents(self) -> tuple[ContentRecord, ...]:
        """All contents that can be leased, the most recently used first."""
        return self._contents.records()

    @property
    def usage(self) -> PoolUsage:
        """How full the pool is."""
        return self._contents.usage()

    def pin(self, key: ContentKey) -> None:
        """Keep a content from being evicted, until it is unpinned or freed. Raises ContentMissingError."""
        self._contents.pin(key)

    def unpin(self, key: ContentKey) -> None:
        """Let a content be evicted; no matter if it is not there."""
        self._contents.unpin(key)

    def free(self, key: ContentKey) -> None:
        """Free a content, pinned or not; no matter if it is not there. Raises PoolBusyError while it is leased."""
        self._contents.free(key)

    def check(self) -> None:
        """Drop what dead processes held, and raise PoolCorruptError if the directory contradicts itself."""
        with self._database.transaction() as connection:
            sweep(connection, self._process)
            check_invariants(connection, self._shape)

    def close(self) -> None:
        """Let go of the pool, and of all leases on it that this object has given; contents stay. Idempotent."""
        if self._process.is_owner and not self._process.is_closed:
            # What cannot be written down now the others find out from our process file.
            with suppress(PoolError), self._database.transaction() as connection:
                drop_process(connection, self._process.token)
        self._database.close()
        self._process.close()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pool {self._folder} {self.num_chunks} chunks of {self.chunk_bytes} bytes, {self.page_kind}>"

    def _wait_until_ours(self, fd: int, stop: int, cancel: Cancel | None) -> bool:
        """Wait until chunks up to `stop` have pages, or it is our turn to make them; False when canceled.

        The lock is ours until the descriptor is closed, or we are dead.
        """
        while not (cancel is not None and cancel.is_set()):
            if self._num_prepared() >= stop:
                return True
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_POLL_S)
            else:
                return True
        return False

    def _num_prepared(self) -> int:
        return int(self._database.query("SELECT num_prepared FROM pool")[0][0])

    def _note_prepared(self, num_chunks: int) -> None:
        with self._database.transaction() as connection:
            connection.execute("UPDATE pool SET num_prepared = max(num_prepared, ?)", (num_chunks,))
