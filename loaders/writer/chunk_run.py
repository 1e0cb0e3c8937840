"""Send every chunk through its stages (read, digest, write) on several threads, in bounded memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cuda_kernels.digest import chunk_digest
from loaders.errors import ConversionCanceledError
from loaders.format.geometry import CHUNK_BYTES, num_chunks
from loaders.format.manifest import PartitionRecord
from loaders.format.page_buffer import page_buffer
from loaders.format.tree_hash import chunk_sha256, tree_sha256
from loaders.writer.disk import DataFile
from loaders.writer.measure import Cancel
from loaders.writer.progress import Progress, ProgressFile


class ChunkSource(Protocol):
    """Where chunks come from; several threads may ask at once."""

    def fill(self, rank: int, chunk: int, buffer: NDArray[np.uint8]) -> object:
        """Fill the beginning of a buffer of one chunk's size with a chunk."""


class ChunkSink:
    """Where chunks go: the data files, and the record of those that are there."""

    def __init__(
        self, files: tuple[DataFile, ...], record: ProgressFile, progress: Progress, *, is_source_known: bool
    ) -> None:
        self._files = files
        self._record = record
        self._written = progress.digests
        #: Whether the source is known to be what it was when the chunks on record were written.
        self._is_source_known = is_source_known

    def recover(self, rank: int, chunk: int, buffer: NDArray[np.uint8]) -> int | None:
        """Read a chunk that an earlier run has written; None if there is none, or it is not what it was."""
        expected = self._written.get((rank, chunk))
        if expected is None or not self._is_source_known:
            return None
        if self._is_written(rank, chunk, buffer, expected):
            return expected
        del self._written[rank, chunk]
        return None

    def put(self, rank: int, chunk: int, data: NDArray[np.uint8], digest: int) -> None:
        """Write a chunk, unless an earlier run has written the very same."""
        # Read into a buffer of its own: if it is something else, `data` is still what must be written.
        known = self._written.get((rank, chunk)) == digest
        if known and self._is_written(rank, chunk, page_buffer(len(data)), digest):
            return
        self._files[rank].write(data, chunk * CHUNK_BYTES)
        self._record.add(rank, chunk, digest)

    def _is_written(self, rank: int, chunk: int, buffer: NDArray[np.uint8], digest: int) -> bool:
        return self._files[rank].read(buffer, chunk * CHUNK_BYTES) and chunk_digest(buffer) == digest


class ChunkRun:
    """All chunks of data files of these sizes; made for one call of `run`.

    Threads take chunks in order and work on them apart from each other. Each holds one chunk.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        source: ChunkSource,
        sink: ChunkSink | None,
        *,
        on_progress: Callable[[int, int], None] | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self._sizes = sizes
        self._source = source
        self._sink = sink
        self._on_progress = on_progress
        self._cancel = cancel
        self._chunks = [(rank, chunk) for rank, num_bytes in enumerate(sizes) for chunk in range(num_chunks(num_bytes))]
        # Of each file, by chunk; every place is written once.
        self._hashes: list[list[bytes]] = [[b""] * num_chunks(num_bytes) for num_bytes in sizes]
        self._digests: list[list[int]] = [[0] * num_chunks(num_bytes) for num_bytes in sizes]
        # Guarded by the lock: chunk to take next, bytes done, whether a thread failed.
        self._lock = threading.Lock()
        self._next = 0
        self._done_bytes = 0
        self._failed = False

    def run(self, num_threads: int) -> tuple[PartitionRecord, ...]:
        """Do all of it; raises what the first failing thread raised. Without a sink, chunks are only digested."""
        with ThreadPoolExecutor(num_threads, thread_name_prefix="convert") as threads:
            for thread in [threads.submit(self._work) for _ in range(num_threads)]:
                thread.result()
        return tuple(
            PartitionRecord(
                num_bytes=num_bytes,
                tree_sha256=tree_sha256(self._hashes[rank]),
                chunk_digests=tuple(self._digests[rank]),
            )
            for rank, num_bytes in enumerate(self._sizes)
        )

    def _work(self) -> None:
        buffer = page_buffer(CHUNK_BYTES)
        try:
            while (number := self._take()) is not None:
                self._convert(number, buffer)
        except BaseException:
            with self._lock:
                self._failed = True
            raise

    def _take(self) -> int | None:
        if self._cancel is not None and self._cancel.is_set():
            raise ConversionCanceledError("canceled; the same conversion goes on from here when it is started again")
        with self._lock:
            if self._failed or self._next == len(self._chunks):
                return None
            self._next += 1
            return self._next - 1

    def _convert(self, number: int, buffer: NDArray[np.uint8]) -> None:
        rank, chunk = self._chunks[number]
        data = buffer[: min(CHUNK_BYTES, self._sizes[rank] - chunk * CHUNK_BYTES)]
        digest = None if self._sink is None else self._sink.recover(rank, chunk, data)
        is_recovered = digest is not None
        if digest is None:
            self._source.fill(rank, chunk, buffer)
            digest = chunk_digest(data)
        self._hashes[rank][chunk] = chunk_sha256(data)
        self._digests[rank][chunk] = digest
        if self._sink is not None and not is_recovered:
            self._sink.put(rank, chunk, data, digest)
        self._report(len(data))

    def _report(self, num_bytes: int) -> None:
        with self._lock:
            self._done_bytes += num_bytes
            if self._on_progress is not None:
                self._on_progress(self._done_bytes, sum(self._sizes))
