"""Read all of a checkpoint and compare it with its digests; also look that padding hides nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from loaders.errors import CheckpointCorruptError
from loaders.format.chunk_check import ChunkCheck
from loaders.format.geometry import CHUNK_BYTES, MANIFEST, MODEL_DIRECTORY, TENSOR_INDEX, partition_name
from loaders.format.manifest import Manifest
from loaders.format.page_buffer import page_buffer
from loaders.format.tree_hash import chunk_sha256, tree_sha256
from loaders.format.validate import OpenCheckpoint, open_checkpoint
from loaders.reading.direct_io import DirectReader

#: They read, check and hash chunks; one chunk each is in memory.
_NUM_THREADS = 4


def verify(path: Path, *, on_progress: Callable[[int, int], None] | None = None) -> Manifest:
    """Check every byte of a checkpoint; raises what `open_checkpoint` raises, naming tensors and chunk.

    Reads past the page cache where it can: what is on the disk counts. `on_progress` is called with bytes done and
    bytes in all.
    """
    with open_checkpoint(path) as checkpoint:
        _check_listing(checkpoint)
        done = 0
        for rank in range(len(checkpoint.partitions)):
            with closing(_check_partition(checkpoint, rank)) as chunks:
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


def _check_partition(checkpoint: OpenCheckpoint, rank: int) -> Generator[int]:
    """Check each chunk and then the whole; yields the size of each chunk."""
    file, record = checkpoint.partitions[rank], checkpoint.manifest.content.partitions[rank]
    entries = [entry for entry in checkpoint.index.tensors.values() if entry.partition == rank]
    checks = ChunkCheck(file.where, entries, record.num_bytes)
    buffers: SimpleQueue[NDArray[np.uint8]] = SimpleQueue()
    for _ in record.chunk_digests[:_NUM_THREADS]:
        buffers.put(page_buffer(CHUNK_BYTES))
    hashes: list[bytes] = []
    # After a failure nobody may be reading when the file is closed: the threads end before that.
    with DirectReader(file) as reader, ThreadPoolExecutor(_NUM_THREADS) as threads:

        def check(chunk: int) -> tuple[int, bytes]:
            begin = chunk * CHUNK_BYTES
            buffer = buffers.get()
            try:
                data = buffer[: record.num_bytes - begin]
                reader.read([data.data], begin, len(data))
                checks.check(chunk, data, record.chunk_digests[chunk])
                return len(data), chunk_sha256(data)
            finally:
                buffers.put(buffer)

        for num_bytes, sha256 in threads.map(check, range(len(record.chunk_digests))):
            hashes.append(sha256)
            yield num_bytes
    if (found := tree_sha256(hashes)) != record.tree_sha256:
        raise CheckpointCorruptError(f"{file.where}: SHA-256 {found} over its chunks, expected {record.tree_sha256}")
