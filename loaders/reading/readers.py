"""How the files of a plan are read: those of this machine past the page cache, others in a way of their own."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from loaders.format.files import OpenFile
from loaders.reading.direct_io import DirectReader


class Reader(Protocol):
    """Reads one file; several threads may do so at once. A context manager."""

    def read(self, chunks: Sequence[memoryview], offset: int, num_bytes: int) -> None:
        """Fill chunks of memory, one behind the other, with bytes that are side by side in the file.

        All but the last are filled; that one begins at a page, and may be overwritten up to the page where the bytes
        end. Raises LoaderError.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class FarFile(Protocol):
    """A file that is not on this machine."""

    @property
    def where(self) -> str:
        """Names the file in errors."""

    def reader(self) -> Reader:
        """Make a reader of it."""

    def check_unchanged(self) -> None:
        """Raise CheckpointCorruptError if it is another file by now."""


PlanFile: TypeAlias = OpenFile | FarFile


def open_reader(file: PlanFile, *, direct: bool) -> Reader:
    """Make the reader for a file; `direct` false leaves the page cache in use."""
    return DirectReader(file, direct=direct) if isinstance(file, OpenFile) else file.reader()
