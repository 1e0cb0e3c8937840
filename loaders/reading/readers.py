"""How the files of a plan are read: those of this machine past the page cache, others in a way of their own."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self, TypeAlias

from loaders.format.files import OpenFile
from loaders.reading.direct_io import DirectReader


class Reader(Protocol):
    """Reads one file; several threads may do so at once. A context manager."""

    def read(self, memory: memoryview, offset: int, num_bytes: int) -> None:
        """Fill the beginning of page-aligned memory; up to the next page it may be overwritten. Raises LoaderError."""

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
