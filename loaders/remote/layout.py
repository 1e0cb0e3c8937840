"""Which files a remote checkpoint consists of. Their names are fixed, or checked: none is taken as it comes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from loaders.directory import CheckpointDirectory
from loaders.errors import CheckpointCorruptError, CheckpointMissingError
from loaders.format.geometry import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    MAX_MODEL_FILE_BYTES,
    MAX_MODEL_FILES_BYTES,
    MODEL_FILES,
    TENSOR_INDEX,
    partition_name,
)
from loaders.format.manifest import Manifest
from loaders.remote.fetcher import Fetcher
from loaders.remote.transport import RemoteFile

_WEIGHTS = "model.safetensors"
_SHARD_INDEX = "model.safetensors.index.json"
_ADAPTER = "adapter_model.safetensors"
#: Stricter than the rule for names in a directory: these become names of files here, and parts of URLs.
_SHARD_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors")
#: The largest models have some hundreds.
_MAX_SHARDS = 4096
#: Questions that are open at once, where many small ones have to be asked.
_NUM_QUESTIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteLayout:
    """A remote checkpoint: its small files whole, its data files as they were found."""

    #: None for a directory with .safetensors files.
    manifest: Manifest | None
    #: Contents, by names below the directory.
    small_files: Mapping[str, bytes]
    #: In the order of a load.
    data_files: tuple[RemoteFile, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the data files."""
        return sum(file.num_bytes for file in self.data_files)


def find_layout(fetcher: Fetcher, directory: CheckpointDirectory) -> RemoteLayout:
    """Find out what is there; raises LoaderError. `directory` is where it will be, and is empty."""
    # As for a directory: the tensor index tells our own form, since others have manifests too.
    if fetcher.find(TENSOR_INDEX) is not None:
        return _find_converted(fetcher)
    return _find_safetensors(fetcher, directory)


def _find_converted(fetcher: Fetcher) -> RemoteLayout:
    found = fetcher.require(MANIFEST)
    data = fetcher.read_small(found, MAX_MANIFEST_BYTES)
    manifest = Manifest.decode(data, where=found.where)
    partitions = manifest.content.partitions
    small = _read_all(fetcher, _require_all(fetcher, manifest.content.files))
    data_files = _require_all(fetcher, map(partition_name, range(len(partitions))))
    for file, record in zip(data_files, partitions, strict=True):
        if file.num_bytes != record.num_bytes:
            raise CheckpointCorruptError(f"{file.where}: {file.num_bytes} bytes, expected {record.num_bytes}")
    return RemoteLayout(manifest=manifest, small_files={MANIFEST: data, **small}, data_files=data_files)


def _find_safetensors(fetcher: Fetcher, directory: CheckpointDirectory) -> RemoteLayout:
    small = _read_all(fetcher, _find_all(fetcher, MODEL_FILES))
    if (single := fetcher.find(_WEIGHTS)) is not None:
        return RemoteLayout(manifest=None, small_files=small, data_files=(single,))
    if (index := fetcher.find(_SHARD_INDEX)) is not None:
        text = fetcher.read_small(index, MAX_MODEL_FILE_BYTES)
        names = _shard_names(directory, index, text)
        return RemoteLayout(
            manifest=None, small_files={**small, _SHARD_INDEX: text}, data_files=_require_all(fetcher, names)
        )
    try:
        return RemoteLayout(manifest=None, small_files=small, data_files=(fetcher.require(_ADAPTER),))
    except CheckpointMissingError as error:
        expected = f"{TENSOR_INDEX}, {_WEIGHTS}, {_SHARD_INDEX} or {_ADAPTER}"
        raise CheckpointMissingError(f"{error}; expected one of {expected}") from error


def _shard_names(directory: CheckpointDirectory, index: RemoteFile, data: bytes) -> list[str]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointCorruptError(f"{index.where}: not UTF-8 at byte {error.start}") from error
    names = sorted(set(directory.shard_of_tensor(text).values()))
    for name in names:
        if _SHARD_NAME.fullmatch(name) is None:
            raise CheckpointCorruptError(f"{index.where}: a shard named {name[:80]!r}, expected {_SHARD_NAME.pattern}")
    if len(names) > _MAX_SHARDS:
        raise CheckpointCorruptError(f"{index.where}: {len(names)} shards, expected at most {_MAX_SHARDS}")
    return names


def _require_all(fetcher: Fetcher, names: Iterable[str]) -> tuple[RemoteFile, ...]:
    with ThreadPoolExecutor(_NUM_QUESTIONS, "ask") as threads:
        return tuple(threads.map(fetcher.require, names))


def _find_all(fetcher: Fetcher, names: Iterable[str]) -> tuple[RemoteFile, ...]:
    with ThreadPoolExecutor(_NUM_QUESTIONS, "ask") as threads:
        return tuple(file for file in threads.map(fetcher.find, names) if file is not None)


def _read_all(fetcher: Fetcher, files: Iterable[RemoteFile]) -> dict[str, bytes]:
    """Read small files, one after the other; they are bounded one by one and together."""
    read: dict[str, bytes] = {}
    for file in files:
        read[file.name] = fetcher.read_small(file, MAX_MODEL_FILE_BYTES)
        if sum(map(len, read.values())) > MAX_MODEL_FILES_BYTES:
            raise CheckpointCorruptError(f"{file.where}: beyond {MAX_MODEL_FILES_BYTES} bytes of small files")
    return read
