"""Write a checkpoint that exists already, from wherever its bytes come: `receive(supplier, destination)`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from cuda_kernels.digest import chunk_digest
from loaders.errors import CheckpointCorruptError, CheckpointExistsError
from loaders.format.geometry import CHUNK_BYTES, MODEL_DIRECTORY, TENSOR_INDEX
from loaders.format.manifest import Manifest
from loaders.format.validate import OpenCheckpoint, open_checkpoint
from loaders.writer.chunk_run import ChunkRun, ChunkSink
from loaders.writer.measure import Cancel
from loaders.writer.work import WorkFolder

#: The manifest and what file systems need for names.
ROOM_FOR_SMALL_FILES = 16 << 20


class Supplier(Protocol):
    """A place that has a checkpoint in our format; several threads may ask for chunks at once."""

    @property
    def manifest(self) -> Manifest:
        """What belongs to the checkpoint."""

    def read_file(self, name: str) -> bytes:
        """Return the tensor index or an execution file, by its name in the manifest; its digest is checked here."""

    def fill(self, rank: int, chunk: int, buffer: NDArray[np.uint8]) -> None:
        """Fill the beginning of a buffer with a chunk; raises LoaderError unless its digest is right."""


class LocalSupplier:
    """A checkpoint in a directory of this machine."""

    def __init__(self, path: Path) -> None:
        """Open and validate it; raises what `open_checkpoint` raises."""
        self._opened: OpenCheckpoint = open_checkpoint(path)
        self._path = path

    @property
    def manifest(self) -> Manifest:
        """What belongs to the checkpoint."""
        return self._opened.manifest

    def read_file(self, name: str) -> bytes:
        """Return a small file."""
        directory, _, file = name.rpartition("/")
        return self._opened.read_model_file(file) if directory == MODEL_DIRECTORY else (self._path / name).read_bytes()

    def fill(self, rank: int, chunk: int, buffer: NDArray[np.uint8]) -> None:
        """Read a chunk; raises CheckpointCorruptError if it is not what the manifest says."""
        record, opened = self.manifest.content.partitions[rank], self._opened.partitions[rank]
        begin = chunk * CHUNK_BYTES
        data = buffer[: min(CHUNK_BYTES, record.num_bytes - begin)]
        opened.read_into(data.data, begin)
        if (found := chunk_digest(data)) != (expected := record.chunk_digests[chunk]):
            raise CheckpointCorruptError(
                f"{opened.where}: chunk {chunk}: digest {found:016x}, expected {expected:016x}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def num_needed_bytes(manifest: Manifest) -> int:
    """How much room a checkpoint takes on a disk."""
    small = sum(record.num_bytes for record in manifest.content.files.values())
    return manifest.num_bytes + small + ROOM_FOR_SMALL_FILES


def receive(
    supplier: Supplier,
    destination: Path,
    *,
    num_threads: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> Manifest:
    """Write the supplier's checkpoint; it appears at the destination complete, checked and durable, or not at all.

    Like `convert`: one chunk per thread in memory, and what was written before a failure stays beside the destination
    for the same call to go on from. Every byte is compared with the manifest.

    Raises:
        CheckpointExistsError: the destination is something else.
        ConversionBusyError: another process writes to it.
        ConversionCanceledError: as was asked for.
        DiskFullError, StorageError: what the disk says.
        CheckpointCorruptError: what came is not what the manifest says.

    """
    manifest = supplier.manifest
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - links in it are the caller's business
    if os.path.lexists(destination):
        return _already_there(destination, manifest)
    files = {name: _read_checked(supplier, name, record.sha256) for name, record in manifest.content.files.items()}
    with WorkFolder(destination) as work:
        progress = work.prepare(manifest.digest)
        sizes = tuple(record.num_bytes for record in manifest.content.partitions)
        data_files = work.open_data(sizes, num_needed_bytes(manifest) - manifest.num_bytes)
        sink = ChunkSink(data_files, work.record, progress, is_source_known=True)
        run = ChunkRun(sizes, supplier, sink, on_progress=on_progress, cancel=cancel)
        if run.run(num_threads) != manifest.content.partitions:
            raise CheckpointCorruptError(f"{manifest.source}: what came is not what its manifest says")
        for file in data_files:
            file.sync()
        tensor_index = files.pop(TENSOR_INDEX)
        model_files = {name.removeprefix(f"{MODEL_DIRECTORY}/"): data for name, data in files.items()}
        work.publish(tensor_index=tensor_index, model_files=model_files, manifest=manifest.encode())
    return manifest


def _already_there(destination: Path, manifest: Manifest) -> Manifest:
    with open_checkpoint(destination) as existing:
        if existing.manifest.digest != manifest.digest:
            raise CheckpointExistsError(f"{destination}: exists, and is not the checkpoint that would be written")
        return existing.manifest


def _read_checked(supplier: Supplier, name: str, sha256: str) -> bytes:
    data = supplier.read_file(name)
    if (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise CheckpointCorruptError(f"{name}: SHA-256 {found}, expected {sha256}")
    return data
