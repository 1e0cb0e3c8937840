"""Open a checkpoint: everything that can be checked without reading the tensors is, before anything is allocated."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from loaders.errors import CheckpointCorruptError
from loaders.format.files import OpenFile, open_directory, open_member
from loaders.format.geometry import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MODEL_DIRECTORY,
    MODEL_FILES,
    TENSOR_INDEX,
    model_file,
    partition_name,
)
from loaders.format.index_reader import decode_tensor_index, read_tensor_index
from loaders.format.manifest import FileRecord, Manifest
from loaders.format.ranges import StorageRanges
from loaders.format.tensor_index import TensorIndex


class OpenCheckpoint:
    """A checkpoint whose files are open: what happens to their names no longer matters.

    Owns the descriptors: close it, or use it as a context manager. Made by `open_checkpoint`.
    """

    def __init__(
        self,
        path: Path,
        *,
        manifest: Manifest,
        index: TensorIndex,
        partitions: tuple[OpenFile, ...],
        model_files: dict[str, OpenFile],
        resources: ExitStack,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.index = index
        #: Data files in the order of gpu ranks, opened without O_DIRECT; read them by offset.
        self.partitions = partitions
        self._model_files = model_files
        self._resources = resources

    @property
    def model_file_names(self) -> tuple[str, ...]:
        """Names of the execution files that are there, sorted."""
        return tuple(sorted(self._model_files))

    def read_model_file(self, name: str) -> bytes:
        """Read an execution file and check its digest once more; KeyError if it is not there."""
        opened = self._model_files[name]
        data = opened.read_exactly(opened.num_bytes)
        _check_digest(opened.where, data, self.manifest.content.files[model_file(name)])
        return data

    def check_unchanged(self) -> None:
        """Raise CheckpointCorruptError if a file was written to since the checkpoint was opened."""
        for opened in (*self.partitions, *self._model_files.values()):
            opened.check_unchanged()

    def close(self) -> None:
        """Close the files; idempotent."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OpenCheckpoint {self.manifest.digest[:12]} {self.manifest.num_bytes} bytes at {self.path}>"


def open_checkpoint(path: Path, *, max_bytes: int | None = None) -> OpenCheckpoint:
    """Open and validate a checkpoint directory in at most 1 s and 64 MiB, whatever is in it.

    Checks everything but the tensors' bytes (`verify` does that). `max_bytes` is what its storages may take on devices
    altogether. Raises CheckpointMissingError, CheckpointCorruptError, CheckpointUnsupportedError for another version of
    the format, LoaderError for what the system refuses.
    """
    with ExitStack() as resources:
        directory = open_directory(path, where=str(path))
        resources.callback(os.close, directory)
        manifest = _read_manifest(path, directory)
        index = _read_index(path, directory, manifest, max_bytes)
        partitions = tuple(
            _open_sized(path, directory, partition_name(rank), record.num_bytes, resources)
            for rank, record in enumerate(manifest.content.partitions)
        )
        model_files = _open_model_files(path, directory, manifest, resources)
        return OpenCheckpoint(
            path,
            manifest=manifest,
            index=index,
            partitions=partitions,
            model_files=model_files,
            resources=resources.pop_all(),
        )


def _read_manifest(path: Path, directory: int) -> Manifest:
    where = str(path / MANIFEST)
    with ExitStack() as resources:
        opened = open_member(MANIFEST, parent=directory, where=where)
        resources.callback(os.close, opened.fd)
        if opened.num_bytes > MAX_MANIFEST_BYTES:
            raise CheckpointCorruptError(f"{where}: {opened.num_bytes} bytes, expected at most {MAX_MANIFEST_BYTES}")
        return Manifest.decode(opened.read_exactly(opened.num_bytes), where=where)


def _read_index(path: Path, directory: int, manifest: Manifest, max_bytes: int | None) -> TensorIndex:
    where = str(path / TENSOR_INDEX)
    index, ranges = read_tensor_index(_index_text(path, directory, manifest), where=where)
    _check_agreement(where, manifest, ranges, max_bytes)
    return index


def _index_text(path: Path, directory: int, manifest: Manifest) -> str:
    record = manifest.content.files[TENSOR_INDEX]
    with ExitStack() as resources:
        opened = _open_sized(path, directory, TENSOR_INDEX, record.num_bytes, resources)
        data = opened.read_exactly(opened.num_bytes)
    _check_digest(opened.where, data, record)
    return decode_tensor_index(data, where=opened.where)


def _check_agreement(where: str, manifest: Manifest, ranges: StorageRanges, max_bytes: int | None) -> None:
    partitions = manifest.content.partitions
    if ranges.num_partitions > len(partitions):
        raise CheckpointCorruptError(
            f"{where}: tensors in {ranges.num_partitions} partitions, expected at most {len(partitions)}"
        )
    for rank, record in enumerate(partitions):
        if (needed := ranges.partition_bytes(rank)) != record.num_bytes:
            raise CheckpointCorruptError(
                f"{where}: tensors fill {needed} bytes of {partition_name(rank)}, expected {record.num_bytes}"
            )
    if dict(ranges.dtypes) != manifest.content.dtypes:
        raise CheckpointCorruptError(
            f"{where}: bytes by type are {dict(ranges.dtypes)}, expected {dict(manifest.content.dtypes)}"
        )
    total = ranges.dtypes.total()
    if max_bytes is not None and total > max_bytes:
        raise CheckpointCorruptError(f"{where}: tensors of {total} bytes, expected at most {max_bytes}")


def _open_model_files(path: Path, directory: int, manifest: Manifest, resources: ExitStack) -> dict[str, OpenFile]:
    listed = {name: manifest.content.files.get(model_file(name)) for name in MODEL_FILES}
    expected = {name: record for name, record in listed.items() if record is not None}
    where = path / MODEL_DIRECTORY
    if not expected:
        _check_absent(where, directory)
        return {}
    parent = open_directory(MODEL_DIRECTORY, where=str(where), parent=directory)
    resources.callback(os.close, parent)
    _check_listing(where, parent, set(expected))
    files = {}
    for name, record in expected.items():
        opened = _open_sized(where, parent, name, record.num_bytes, resources)
        if (found := opened.sha256()) != record.sha256:
            raise _wrong_digest(opened.where, found, record)
        files[name] = opened
    return files


def _check_absent(where: Path, directory: int) -> None:
    with suppress(FileNotFoundError):
        os.stat(MODEL_DIRECTORY, dir_fd=directory, follow_symlinks=False)
        raise CheckpointCorruptError(f"{where}: is there, but not in the manifest")


def _check_listing(where: Path, parent: int, expected: set[str]) -> None:
    """Refuse what the manifest does not list: libraries read such a directory by the names that they find there."""
    with os.scandir(parent) as entries:
        for entry in entries:
            if entry.name not in expected:
                raise CheckpointCorruptError(f"{where / entry.name}: is there, but not in the manifest")


def _open_sized(path: Path, parent: int, name: str, num_bytes: int, resources: ExitStack) -> OpenFile:
    where = str(path / name)
    opened = open_member(name, parent=parent, where=where)
    resources.callback(os.close, opened.fd)
    if opened.num_bytes != num_bytes:
        raise CheckpointCorruptError(f"{where}: {opened.num_bytes} bytes, expected {num_bytes}")
    return opened


def _check_digest(where: str, data: bytes, record: FileRecord) -> None:
    if (found := hashlib.sha256(data).hexdigest()) != record.sha256:
        raise _wrong_digest(where, found, record)


def _wrong_digest(where: str, found: str, record: FileRecord) -> CheckpointCorruptError:
    return CheckpointCorruptError(f"{where}: SHA-256 {found}, expected {record.sha256}")
