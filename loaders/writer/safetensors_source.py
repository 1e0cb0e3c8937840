"""A directory in the Hugging Face layout as a source: its .safetensors files, sharded or not, and execution files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from loaders.directory import CheckpointDirectory
from loaders.errors import CheckpointCorruptError, CheckpointMissingError, CheckpointUnsupportedError
from loaders.format.files import open_regular
from loaders.format.geometry import MAX_MODEL_FILE_BYTES, MAX_MODEL_FILES_BYTES, MODEL_FILES
from loaders.format.safetensors_header import HeaderTensor, OpenSafetensors, open_safetensors
from loaders.format.tensor_index import contiguous_stride
from loaders.writer.sources import SourceTensor

_SHARD_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_model.safetensors"


class SafetensorsSource:
    """Every tensor of a directory is a storage of its own."""

    def __init__(self, path: Path) -> None:
        self.description = str(path)
        self.model_files = _read_model_files(path)
        with ExitStack() as resources:
            files = [resources.enter_context(open_safetensors(shard)) for shard in _shards(path)]
            self._places = [(file, tensor) for file in files for tensor in file.tensors.values()]
            _check_names(path, self._places)
            self._files = files
            self.tensors = tuple(_source_tensor(number, *place) for number, place in enumerate(self._places))
            self._resources = resources.pop_all()
        self.storage_bytes = tuple(tensor.num_bytes for _, tensor in self._places)

    @property
    def fingerprint(self) -> str:
        """Names, inodes, sizes and times of the files."""
        return repr([(file.file.where, file.file.identity) for file in self._files])

    def read(self, storage: int, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from a tensor's bytes."""
        file, tensor = self._places[storage]
        file.file.read_into(buffer, tensor.begin + offset)

    def check_unchanged(self) -> None:
        """Compare the open files with what they were at the beginning."""
        for file in self._files:
            file.check_unchanged()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()


def _shards(path: Path) -> tuple[Path, ...]:
    directory = CheckpointDirectory(path)
    if not (path / _SHARD_INDEX).exists() and (path / _ADAPTER).exists():
        return (path / _ADAPTER,)
    return directory.shards()


def _check_names(path: Path, places: list[tuple[OpenSafetensors, HeaderTensor]]) -> None:
    """Each tensor is in one file, and in the one that the index of shards says."""
    found: dict[str, str] = {}
    for file, tensor in places:
        if tensor.name in found:
            raise CheckpointCorruptError(f"{file.file.where}: tensor {tensor.name} is already in {found[tensor.name]}")
        found[tensor.name] = Path(file.file.where).name
    directory = CheckpointDirectory(path)
    text = directory.read_text(_SHARD_INDEX)
    if text is None or len(set(found.values())) <= 1:
        return
    for name, shard in directory.shard_of_tensor(text).items():
        if found.get(name) != shard:
            where = f"{path / _SHARD_INDEX}: tensor {name} is in {found.get(name, 'no file')}, expected {shard}"
            raise CheckpointMissingError(where) if name not in found else CheckpointCorruptError(where)


def _source_tensor(number: int, file: OpenSafetensors, tensor: HeaderTensor) -> SourceTensor:
    if tensor.dtype is None:
        raise CheckpointUnsupportedError(f"{file.file.where}: tensor {tensor.name} has a type that torch lacks")
    return SourceTensor(
        name=tensor.name,
        storage=number,
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=contiguous_stride(tensor.shape),
    )


def _read_model_files(path: Path) -> Mapping[str, bytes]:
    files = {}
    for name in MODEL_FILES:
        try:
            opened = open_regular(path / name)
        except CheckpointMissingError:
            continue
        try:
            if opened.num_bytes > MAX_MODEL_FILE_BYTES:
                raise CheckpointCorruptError(
                    f"{opened.where}: {opened.num_bytes} bytes, expected at most {MAX_MODEL_FILE_BYTES}"
                )
            files[name] = opened.read_exactly(opened.num_bytes)
        finally:
            os.close(opened.fd)
    if (num_bytes := sum(map(len, files.values()))) > MAX_MODEL_FILES_BYTES:
        raise CheckpointUnsupportedError(
            f"{path}: execution files of {num_bytes} bytes, expected at most {MAX_MODEL_FILES_BYTES}"
        )
    return files
