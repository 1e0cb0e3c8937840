"""A checkpoint's directory with everything but the weights: enough to check it and to plan its load."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loaders.format.geometry import MODEL_DIRECTORY
from loaders.format.safetensors_header import MAX_HEADER_BYTES
from loaders.remote.fetcher import Fetcher
from loaders.remote.layout import RemoteLayout
from loaders.remote.transport import RemoteFile
from loaders.writer.disk import translated, write_file

#: Asked for at first: as much as most headers need.
_FIRST_BYTES = 64 << 10
_LENGTH_BYTES = 8
_NUM_THREADS = 8


def write_skeleton(folder: Path, layout: RemoteLayout, fetcher: Fetcher) -> None:
    """Write small files, and data files of full size with holes for weights. What is there of data files stays."""
    with translated(folder):
        _remove_others(folder, {file.name for file in layout.data_files})
        if any(name.startswith(f"{MODEL_DIRECTORY}/") for name in layout.small_files):
            (folder / MODEL_DIRECTORY).mkdir()
    for name, data in layout.small_files.items():
        write_file(folder / name, data)
    beginning: Callable[[RemoteFile], bytes] = lambda _: b""  # noqa: E731
    if layout.manifest is None:
        beginning = lambda file: _header(fetcher, file)  # noqa: E731
    with ThreadPoolExecutor(_NUM_THREADS, "header") as threads:
        for file, data in zip(layout.data_files, threads.map(beginning, layout.data_files), strict=True):
            _make_data_file(folder / file.name, file.num_bytes, data)


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in names:
            path.unlink()


def _header(fetcher: Fetcher, file: RemoteFile) -> bytes:
    """Read the header of a .safetensors file, whatever is in it; of one that is too large only the beginning."""
    begin = fetcher.read_beginning(file, min(_FIRST_BYTES, file.num_bytes))
    if len(begin) < _LENGTH_BYTES:
        return begin
    num_bytes = _LENGTH_BYTES + int(struct.unpack_from("<Q", begin)[0])
    if num_bytes <= len(begin) or num_bytes > min(file.num_bytes, _LENGTH_BYTES + MAX_HEADER_BYTES):
        return begin[:num_bytes]
    return fetcher.read_beginning(file, num_bytes)


def _make_data_file(path: Path, num_bytes: int, begin: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with translated(path):
        if path.exists():
            # A run that died while it published may have closed it to writers.
            path.chmod(0o644)
        fd = os.open(path, flags, 0o644)
        try:
            os.ftruncate(fd, num_bytes)
            if begin:
                os.pwrite(fd, begin, 0)
        finally:
            os.close(fd)
