"""Copies of remote files that grow on the SSD, with a record of the pieces that are there."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cuda_kernels.digest import chunk_digest
from loaders.format.geometry import CHUNK_BYTES, FILE_ALIGNMENT, align_up
from loaders.writer.disk import DataFile, translated
from loaders.writer.progress import ProgressFile


class GrowingCopy:
    """One file, written piece by piece in any order, by several threads. Pieces are chunks. Owns its descriptors."""

    def __init__(self, path: Path, record: Path, num_bytes: int, plan: str) -> None:
        """Go on with what is there if it is on record for the same plan: a text that differs for other bytes."""
        self._path = path
        self._num_bytes = num_bytes
        progress = ProgressFile.read(record, plan)
        if progress is None:
            ProgressFile.create(record, plan, "-")
        self._digests = {} if progress is None else progress.digests
        # Offsets of pieces that were written, or found to be right, by this run; only ever added to.
        self._there: set[int] = set()
        # Direct writes are of whole blocks; `finish` cuts off what the last one has too much.
        self._file = DataFile(path, align_up(num_bytes, FILE_ALIGNMENT))
        self._record = ProgressFile(record)

    def recover(self, memory: memoryview, offset: int, num_bytes: int, expected: int | None) -> bool:
        """Read a piece that was written before; False if there is none, or it is not what it was, or was expected."""
        digest = self._digests.get((0, offset // CHUNK_BYTES))
        if digest is None or expected not in {None, digest}:
            return False
        block = _block(memory, num_bytes)
        if not self._file.read(block, offset) or chunk_digest(block[:num_bytes]) != digest:
            return False
        self._there.add(offset)
        return True

    def has(self, offset: int) -> bool:
        """Whether a piece is there and right."""
        return offset in self._there

    def put(self, memory: memoryview, offset: int, num_bytes: int, digest: int) -> None:
        """Write a piece, and note it. Memory up to the next whole block is overwritten."""
        block = _block(memory, num_bytes)
        block[num_bytes:] = 0
        self._file.write(block, offset)
        self._record.add(0, offset // CHUNK_BYTES, digest)
        self._there.add(offset)

    def finish(self) -> None:
        """Give the file its size, make it durable, and let nobody write to it."""
        with translated(self._path):
            os.truncate(self._path, self._num_bytes)
            self._path.chmod(0o444)
        self._file.sync()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._record.close()


def _block(memory: memoryview, num_bytes: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.frombuffer(memory, dtype=np.uint8, count=align_up(num_bytes, FILE_ALIGNMENT))
