"""The checkpoints on a node's SSD: one folder per digest, complete or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.ids import new_id
from sllm_tasks.node_agent.files import checkpoint_files, open_regular

_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_MANIFEST = "manifest.json"
_BLOCK_BYTES = 4 * 2**20


def is_digest(text: str) -> bool:
    """Whether a text can be a checkpoint's digest, and so a folder's name."""
    return bool(_DIGEST.match(text))


class CheckpointStore:
    """Folders appear by one rename after everything in them is on disk, and are named by their content."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def digests(self) -> frozenset[str]:
        """List complete checkpoints."""
        return frozenset(path.name for path in self._root.iterdir() if is_digest(path.name))

    def path(self, digest: str) -> Path:
        """Return the folder of a checkpoint; raises ModelUnusableError when it is not here."""
        path = self._root / digest
        if not is_digest(digest) or not path.is_dir():
            raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, f"checkpoint {digest} is not on this node")
        return path

    def import_directory(self, source: Path, progress: Callable[[int], None]) -> str:
        """Copy a checkpoint directory into the store and return its digest; `progress` gets bytes done so far.

        Raises:
            ModelUnusableError: There is no such directory here, its files cannot be read, or the disk is full.

        """
        paths = checkpoint_files(source)
        done_bytes = 0
        with self._new_folder(sum(path.stat().st_size for path in paths)) as folder:
            digests: dict[str, str] = {}
            for path in paths:
                with open_regular(path) as file:
                    blocks = iter(lambda file=file: file.read(_BLOCK_BYTES), b"")  # type: ignore[misc]
                    for block in self.write_file(folder / path.name, blocks, digests):
                        done_bytes += block
                        progress(done_bytes)
            return self._publish(folder, digests)

    @contextmanager
    def receiving(self, num_bytes: int) -> Iterator[Path]:
        """Give a folder for files that come from elsewhere; it is gone at the end unless `publish_received` took it."""
        with self._new_folder(num_bytes) as folder:
            yield folder

    def publish_received(self, folder: Path, digest: str, files: dict[str, str]) -> None:
        """Publish received files; raises ModelUnusableError when they are not what the digest promises."""
        if digest_of(files) != digest:
            message = f"the manifest of checkpoint {digest} does not match its digest"
            raise ModelUnusableError(ErrorCode.CHECKPOINT_CORRUPT, message)
        self._publish(folder, files)

    def delete(self, digest: str) -> None:
        """Delete a checkpoint; nothing happens when it is not here."""
        path = self._root / digest
        if is_digest(digest) and path.is_dir():
            # Renamed first, so that a crash in between leaves no half checkpoint under its name.
            doomed = self._root / f".partial-{new_id('delete')}"
            path.rename(doomed)
            shutil.rmtree(doomed)

    @staticmethod
    def write_file(path: Path, blocks: Iterator[bytes], digests: dict[str, str]) -> Iterator[int]:
        """Write blocks and fsync; yields the size of each and notes the file's SHA-256 at the end."""
        digest = hashlib.sha256()
        with path.open("xb") as file:
            for block in blocks:
                file.write(block)
                digest.update(block)
                yield len(block)
            file.flush()
            os.fsync(file.fileno())
        digests[path.name] = digest.hexdigest()

    @contextmanager
    def _new_folder(self, num_bytes: int) -> Iterator[Path]:
        free_bytes = shutil.disk_usage(self._root).free
        if free_bytes < num_bytes:
            message = f"the checkpoint needs {num_bytes} bytes on the SSD, {free_bytes} are free"
            raise ModelUnusableError(ErrorCode.DISK_FULL, message)
        folder = self._root / f".partial-{new_id('import')}"
        folder.mkdir()
        try:
            yield folder
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise ModelUnusableError(ErrorCode.DISK_FULL, "the SSD ran full during the copy") from error
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _publish(self, folder: Path, files: dict[str, str]) -> str:
        digest = digest_of(files)
        target = self._root / digest
        if target.is_dir():
            return digest
        manifest = folder / _MANIFEST
        num_bytes = sum((folder / name).stat().st_size for name in files)
        manifest.write_text(json.dumps({"version": 1, "num_bytes": num_bytes, "files": files}), encoding="utf-8")
        for path in (manifest, folder):
            _fsync(path)
        folder.rename(target)
        _fsync(self._root)
        return digest


def digest_of(files: dict[str, str]) -> str:
    """Name a checkpoint by its files."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
