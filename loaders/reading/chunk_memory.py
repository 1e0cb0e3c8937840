"""Where chunks are read to: what the pipeline asks of it, and the plain kind that belongs to one load."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from loaders.memory.mapping import Mapping


class ChunkMemory(Protocol):
    """Memory for the chunks of one content, filled by one process or by several at once."""

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is filled."""
        ...

    def chunk(self, index: int) -> memoryview:
        """Memory of a chunk: a whole one, also where the file ends before."""
        ...

    def claim(self, limit: int = 1) -> range:
        """Take up to `limit` chunks that nobody fills, one behind the other; empty while there is none."""
        ...

    def filled(self, index: int) -> None:
        """Say that a claimed chunk is there and right."""
        ...

    def give_back(self, index: int) -> None:
        """Let others fill a claimed chunk."""
        ...

    def wait(self, timeout_s: float) -> set[int]:
        """Wait for chunks that were filled since the last call, by whomever; empty after the time-out."""
        ...

    def discard(self) -> None:
        """Let nobody have what is there: it turned out to be wrong."""
        ...


class OwnChunks:
    """The chunks of a content that one load fills alone: which are claimed, and which have been filled.

    Where they are is for the kinds of memory to say that build on it.
    """

    def __init__(self, num_chunks: int) -> None:
        # The last one first, because claims are popped from the end.
        self._unclaimed = list(reversed(range(num_chunks)))
        self._num_missing = num_chunks
        self._fresh: set[int] = set()
        self._changed = threading.Condition()

    @property
    def is_complete(self) -> bool:
        """Whether every chunk has been filled."""
        return self._num_missing == 0

    def claim(self, limit: int = 1) -> range:
        """Take the next chunk, whatever the limit: it costs nothing to ask again. Empty when all are taken."""
        del limit
        with self._changed:
            if not self._unclaimed:
                return range(0)
            index = self._unclaimed.pop()
            return range(index, index + 1)

    def filled(self, index: int) -> None:
        """Say that a chunk is there."""
        with self._changed:
            self._fresh.add(index)
            self._num_missing -= 1
            self._changed.notify_all()

    def give_back(self, index: int) -> None:
        """Take a chunk later."""
        with self._changed:
            self._unclaimed.append(index)

    def wait(self, timeout_s: float) -> set[int]:
        """Wait for chunks that were filled since the last call."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._fresh), timeout_s)
            fresh, self._fresh = self._fresh, set()
            return fresh

    def discard(self) -> None:
        """Nobody else has it."""


def allocate(num_bytes: int) -> Mapping:
    """Memory of this process alone, whose pages are made as they are needed; raises torch.OutOfMemoryError."""
    with _out_of_memory(num_bytes):
        return Mapping.anonymous(num_bytes)


@contextmanager
def _out_of_memory(num_bytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOMEM, errno.EFAULT}:
            raise
        raise torch.OutOfMemoryError(f"this machine has no memory for {num_bytes} bytes: {error.strerror}") from error


class PrivateMemory(OwnChunks):
    """Memory of one load only: a whole number of chunks, whose pages are made as they are needed."""

    def __init__(self, mapping: Mapping, chunk_bytes: int) -> None:
        super().__init__(mapping.num_bytes // chunk_bytes)
        self._mapping = mapping
        self._view = mapping.view
        self._chunk_bytes = chunk_bytes

    def chunk(self, index: int) -> memoryview:
        """Memory of a chunk."""
        begin, end = index * self._chunk_bytes, (index + 1) * self._chunk_bytes
        # Made here, by many readers at once, rather than page by page inside a direct read: that took 4 times as long.
        with _out_of_memory(self._chunk_bytes):
            self._mapping.populate(begin, end)
        return self._view[begin:end]
