"""The folder that a download grows in, beside its destination, until it is moved there as a whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from loaders.errors import CheckpointExistsError, StorageError
from loaders.remote.copies import GrowingCopy
from loaders.remote.layout import RemoteLayout
from loaders.remote.transport import RemoteFile
from loaders.writer.disk import check_room, sync_directory, translated
from loaders.writer.locking import lock_folder

#: What file systems need for names and the record.
_ROOM_FOR_OTHERS = 16 << 20


class DownloadFolder:
    """`.<name>.download` beside the destination: the growing checkpoint and a record of pieces for each data file.

    One process at a time holds it (a lock that dies with the process). It stays behind when a download fails or is
    canceled, so that the next one can go on, and is removed when the checkpoint is published.
    """

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._path = destination.with_name(f".{destination.name}.download")
        self._records = self._path / "pieces"
        self._resources = ExitStack()
        self._copies: tuple[GrowingCopy, ...] = ()
        #: Where the checkpoint grows.
        self.checkpoint = self._path / "checkpoint"
        with translated(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
        self._resources.callback(os.close, lock_folder(self._path, destination))
        #: Whether an earlier run died between publishing and tidying up.
        self.was_published = (
            os.path.lexists(destination) and self._records.is_dir() and not os.path.lexists(self.checkpoint)
        )

    def prepare(self) -> None:
        """Make the folders. Raises CheckpointExistsError."""
        if os.path.lexists(self._destination):
            raise CheckpointExistsError(f"{self._destination}: exists already")
        with translated(self._path):
            self.checkpoint.mkdir(exist_ok=True)
            self._records.mkdir(exist_ok=True)

    def open_copies(self, layout: RemoteLayout) -> tuple[GrowingCopy, ...]:
        """Make the data files in full size; raises DiskFullError before anything is written if they cannot fit."""
        with translated(self._path):
            already = sum((self.checkpoint / file.name).stat().st_blocks * 512 for file in layout.data_files)
        check_room(self._path, layout.num_bytes + _ROOM_FOR_OTHERS, already)
        copies = []
        for rank, file in enumerate(layout.data_files):
            copy = GrowingCopy(
                self.checkpoint / file.name, self._records / file.name, file.num_bytes, _plan(layout, rank, file)
            )
            self._resources.callback(copy.close)
            copies.append(copy)
        self._copies = tuple(copies)
        return self._copies

    def publish(self) -> None:
        """Move the checkpoint to its destination; durable when it returns."""
        for copy in self._copies:
            copy.finish()
        with translated(self.checkpoint):
            for path in (*self.checkpoint.glob("*/"), self.checkpoint):
                sync_directory(path)
        if os.path.lexists(self._destination):
            raise CheckpointExistsError(f"{self._destination}: came into being meanwhile")
        try:
            self.checkpoint.rename(self._destination)
        except OSError as error:
            raise StorageError(f"{self._destination}: {error.strerror}") from error
        sync_directory(self._destination.parent)
        self.discard()

    def discard(self) -> None:
        """Remove the folder, as far as the system lets us; nothing refers to it."""
        shutil.rmtree(self._path, ignore_errors=True)

    def close(self) -> None:
        """Close the files and let others have the folder; idempotent."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _plan(layout: RemoteLayout, rank: int, file: RemoteFile) -> str:
    """Digest of what tells the bytes of a file apart from others; never the same twice if nothing does."""
    if layout.manifest is not None:
        version: str | None = layout.manifest.content.partitions[rank].tree_sha256
    else:
        version = file.version or os.urandom(16).hex()
    return hashlib.sha256(repr((file.name, file.num_bytes, version)).encode()).hexdigest()
