"""Read all of a checkpoint and compare it with its digests; also look that padding hides nothing."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loaders.errors import CheckpointCorruptError
from loaders.format.chunk_check import ChunkCheck
from loaders.format.geometry import CHUNK_BYTES, MANIFEST, MODEL_DIRECTORY, TENSOR_INDEX, partition_name
from loaders.format.manifest import Manifest
from loaders.format.page_buffer import page_buffer
from loaders.format.validate import OpenCheckpoint, open_checkpoint
from loaders.reading.direct_io import DirectReader

#: They read and check chunks; SHA-256 takes these in their order, on the caller's thread. One chunk each is in memory.
_NUM_THREADS = 3


def verify(path: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Check every byte of a checkpoint; raises what `open_checkpoint` raises, naming tensors and chunk.

    Reads past the page cache where it can: what is on the disk counts. `on_progress` is called with bytes done and
    bytes in all.
    """
    with open_checkpoint(path) as checkpoint, ThreadPoolExecutor(_NUM_THREADS) as threads:
        _check_listing(checkpoint)
        done = 0
        for rank in range(len(checkpoint.partitions)):
            with closing(_check_partition(checkpoint, rank, threads)) as chunks:
                for num_bytes in chunks:
                    done += num_bytes
                    if on_progress is not None:
                        on_progress(done, checkpoint.manifest.num_bytes)
        checkpoint.check_unchanged()
        return checkpoint.manifest


def _check_listing(checkpoint: OpenCheckpoint) -> None:
    """Refuse files that nothing refers to."""
    expected = {MANIFEST, TENSOR_INDEX, *map(partition_name, range(len(checkpoint.partitions)))}
    expected |= {MODEL_DIRECTORY} if checkpoint.model_file_names else set()
    with os.scandir(checkpoint.path) as entries:
        for entry in entries:
            if entry.name not in expected:
                raise CheckpointCorruptError(f"{checkpoint.path / entry.name}: is no part of a checkpoint")


def _check_partition(checkpoint: OpenCheckpoint, rank: int, threads: ThreadPoolExecutor) -> Generator[int]:
    """Check each chunk and then the whole; yields the size of each chunk."""
    file, record = checkpoint.partitions[rank], checkpoint.manifest.content.partitions[rank]
    entries = [entry for entry in checkpoint.index.tensors.values() if entry.partition == rank]
    checks = ChunkCheck(file.where, entries, record.num_bytes)
    buffers = [page_buffer(CHUNK_BYTES) for _ in record.chunk_digests[:_NUM_THREADS]]
    whole = hashlib.sha256()
    with DirectReader(file) as reader:

        def check(chunk: int) -> NDArray[np.uint8]:
            begin = chunk * CHUNK_BYTES
            data = buffers[chunk % _NUM_THREADS][: min(CHUNK_BYTES, record.num_bytes - begin)]
            reader.read(data.data, begin, len(data))
            checks.check(chunk, data, record.chunk_digests[chunk])
            return data

        with closing(_in_order(threads, check, len(record.chunk_digests))) as checked:
            for data in checked:
                whole.update(data.data)
                yield len(data)
    if (sha256 := whole.hexdigest()) != record.sha256:
        raise CheckpointCorruptError(f"{file.where}: SHA-256 {sha256}, expected {record.sha256}")


def _in_order(
    threads: ThreadPoolExecutor, check: Callable[[int], NDArray[np.uint8]], count: int
) -> Generator[NDArray[np.uint8]]:
    """Run a check for each number; yields the results in order, and begins another only when one has been taken."""
    pending: deque[Future[NDArray[np.uint8]]] = deque()
    try:
        for number in range(count):
            if len(pending) == _NUM_THREADS:
                yield pending.popleft().result()
            pending.append(threads.submit(check, number))
        while pending:
            yield pending.popleft().result()
    finally:
        # After a failure nobody may be reading when the file is closed.
        for future in pending:
            future.cancel()
        for future in pending:
            if not future.cancelled():
                future.exception()
