"""Files that the page cache holds already, mapped instead of read."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

from cuda_kernels.digest import chunk_digest
from loaders.errors import CheckpointCorruptError, StorageError
from loaders.format.files import OpenFile
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.mapping import Mapping
from loaders.reading.page_cache import is_cached
from loaders.reading.plan import LoadPlan

_NUM_THREADS = 2
#: One chunk in so many is compared with its digest: all were when the checkpoint was written, and reading all of them
#: takes five times as long as mapping them.
_SAMPLE = 16
_WRITABLE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def are_cached(plan: LoadPlan) -> bool:
    """Whether a plan's files are better mapped: they are in memory, and nobody may write to them.

    Mapped tensors change with their file, so a file that somebody may write to is never mapped.
    """
    return all(
        isinstance(file, OpenFile) and not stat.S_IMODE(os.fstat(file.fd).st_mode) & _WRITABLE and is_cached(file.fd)
        for file in plan.files
    )


def map_files(plan: LoadPlan) -> Mapping:
    """Map all files of a plan as its image, copy on write; then call `check_mapped`. Raises StorageError."""
    files = [file for file in plan.files if isinstance(file, OpenFile)]
    try:
        return Mapping.of_files([(file.fd, file.num_bytes) for file in files], CHUNK_BYTES)
    except OSError as error:
        raise StorageError(f"{plan.files[0].where}: cannot be mapped: {error.strerror}") from error


def check_mapped(plan: LoadPlan, mapping: Mapping) -> None:
    """Let the files be read without page faults.

    Raises CheckpointCorruptError for a wrong digest, or a file that was changed meanwhile, and StorageError.
    """

    def look_at(index: int) -> None:
        chunk, begin = plan.chunks[index], index * CHUNK_BYTES
        file = plan.files[chunk.file]
        try:
            mapping.fill_page_tables(begin, begin + chunk.num_bytes)
        except OSError as error:
            # Such as one that was cut: a page behind its end cannot be mapped.
            file.check_unchanged()
            raise StorageError(f"{file.where}: reading at byte {chunk.offset}: {error.strerror}") from error
        if chunk.digest is None or index % _SAMPLE:
            return
        if chunk_digest(mapping.view[begin : begin + chunk.num_bytes]) != chunk.digest:
            raise CheckpointCorruptError(f"{file.where}: the bytes at {chunk.offset} have a wrong digest")

    with ThreadPoolExecutor(_NUM_THREADS, "map") as threads:
        list(threads.map(look_at, range(len(plan.chunks))))
    for file in plan.files:
        # What was written after they were opened is seen in the mapping as well.
        file.check_unchanged()
