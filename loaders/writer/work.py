"""The folder that a checkpoint grows in, beside its destination, until it is moved there as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from loaders.errors import CheckpointExistsError, StorageError
from loaders.format.geometry import MANIFEST, MODEL_DIRECTORY, TENSOR_INDEX, partition_name
from loaders.writer.disk import DataFile, check_room, sync_directory, translated, write_file
from loaders.writer.locking import lock_folder
from loaders.writer.progress import Progress, ProgressFile


class WorkFolder:
    """`.<name>.partial` beside the destination: the growing checkpoint and the record of its chunks.

    One process at a time holds it (a lock that dies with the process). It stays behind when writing fails or is
    canceled, so that the next run can go on, and is removed when the checkpoint is published.
    """

    def __init__(self, destination: Path) -> None:
        self._destination = destination
        self._path = destination.with_name(f".{destination.name}.partial")
        self._checkpoint = self._path / "checkpoint"
        self._resources = ExitStack()
        with translated(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
        self._resources.callback(os.close, lock_folder(self._path, destination))

    def prepare(self, plan: str) -> Progress:
        """Find what an earlier run of the same plan has done, or begin anew."""
        record = self._path / "progress"
        progress = ProgressFile.read(record, plan)
        with translated(self._path):
            if progress is None:
                shutil.rmtree(self._checkpoint, ignore_errors=True)
                progress = Progress(datetime.now(UTC).isoformat(timespec="seconds"), {})
                ProgressFile.create(record, plan, progress.created_at)
            self._checkpoint.mkdir(exist_ok=True)
        self.record = ProgressFile(record)
        self._resources.callback(self.record.close)
        return progress

    def open_data(self, sizes: Sequence[int], num_other_bytes: int) -> tuple[DataFile, ...]:
        """Make the data files in full size; raises DiskFullError before anything is written if they cannot fit."""
        paths = [self._checkpoint / partition_name(rank) for rank in range(len(sizes))]
        with translated(self._path):
            already = sum(path.stat().st_blocks * 512 for path in paths if path.exists())
        check_room(self._path, sum(sizes) + num_other_bytes, already)
        files = []
        for path, num_bytes in zip(paths, sizes, strict=True):
            with translated(path):
                if path.exists():
                    # A run that died while it published may have closed it to writers.
                    path.chmod(0o644)
            file = DataFile(path, num_bytes)
            self._resources.callback(file.close)
            files.append(file)
        return tuple(files)

    def publish(self, *, tensor_index: bytes, model_files: Mapping[str, bytes], manifest: bytes) -> None:
        """Write the other files, the manifest last, and move the folder to its destination; durable when it returns."""
        with translated(self._checkpoint):
            shutil.rmtree(self._checkpoint / MODEL_DIRECTORY, ignore_errors=True)
            if model_files:
                (self._checkpoint / MODEL_DIRECTORY).mkdir()
        write_file(self._checkpoint / TENSOR_INDEX, tensor_index)
        for name, data in model_files.items():
            write_file(self._checkpoint / MODEL_DIRECTORY / name, data)
        if model_files:
            sync_directory(self._checkpoint / MODEL_DIRECTORY)
        with translated(self._checkpoint):
            # For ever: a file that nobody may write to is one that a loader may map.
            for path in self._checkpoint.glob("*.bin"):
                path.chmod(0o444)
        sync_directory(self._checkpoint)
        write_file(self._checkpoint / MANIFEST, manifest)
        sync_directory(self._checkpoint)
        self._move()
        sync_directory(self._destination.parent)
        self.discard()

    def discard(self) -> None:
        """Remove the folder, as far as the system lets us; nothing refers to it."""
        shutil.rmtree(self._path, ignore_errors=True)

    def _move(self) -> None:
        if os.path.lexists(self._destination):
            raise CheckpointExistsError(f"{self._destination}: came into being meanwhile")
        try:
            self._checkpoint.rename(self._destination)
        except OSError as error:
            raise StorageError(f"{self._destination}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()
