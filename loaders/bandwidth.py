"""Measure what a node's tiers deliver: the disk past the page cache, memory by plain copies of what does not fit it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loaders.format.files import open_regular
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.mapping import Mapping
from loaders.reading.direct_io import DirectReader
from loaders.reading.pipeline import DEFAULT_THREADS

#: Larger than the last cache of any processor in use, and small enough for a second.
_COPY_BYTES = 256 << 20
_NUM_COPIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Bytes that were moved and the time it took."""

    num_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskBandwidth(Bandwidth):
    """What a disk delivered."""

    #: False where the file system has no reads past the page cache: then it may have been memory that answered.
    is_direct: bool


def measure_disk(paths: Sequence[Path], *, max_seconds: float = 5.0) -> DiskBandwidth:
    """Read files once as a load does (chunks, several threads, direct), or as much of them as the time allows.

    Raises LoaderError where one cannot be read.
    """
    with ExitStack() as resources:
        readers = []
        for path in paths:
            opened = open_regular(path)
            resources.callback(os.close, opened.fd)
            readers.append((resources.enter_context(DirectReader(opened)), opened.num_bytes))
        chunks = iter(
            [
                (reader, offset, num_bytes)
                for reader, num_bytes in readers
                for offset in range(0, num_bytes, CHUNK_BYTES)
            ]
        )
        threads = resources.enter_context(ThreadPoolExecutor(DEFAULT_THREADS, "measure"))
        buffers = [_touched_memory() for _ in range(DEFAULT_THREADS)]
        started_s = time.monotonic()

        def read(buffer: Mapping) -> int:
            done = 0
            # Taking the next one of a list is one step of the interpreter: threads need no lock for it.
            while time.monotonic() - started_s < max_seconds and (chunk := next(chunks, None)) is not None:
                reader, offset, file_bytes = chunk
                num_bytes = min(CHUNK_BYTES, file_bytes - offset)
                reader.read([buffer.view], offset, num_bytes)
                done += num_bytes
            return done

        num_bytes = sum(threads.map(read, buffers))
        seconds = time.monotonic() - started_s
        is_direct = all(reader.is_direct for reader, _ in readers)
    return DiskBandwidth(num_bytes=num_bytes, seconds=seconds, is_direct=is_direct)


def _touched_memory() -> Mapping:
    memory = Mapping.anonymous(CHUNK_BYTES)
    memory.populate(0, CHUNK_BYTES)
    return memory


def measure_memory() -> Bandwidth:
    """Copy within memory that was touched before, by one thread; the median of some copies."""
    source, target = np.ones(_COPY_BYTES, dtype=np.uint8), np.ones(_COPY_BYTES, dtype=np.uint8)
    times = []
    for _ in range(_NUM_COPIES):
        started_s = time.monotonic()
        np.copyto(target, source)
        times.append(time.monotonic() - started_s)
    return Bandwidth(num_bytes=_COPY_BYTES, seconds=statistics.median(times))
