"""A remote file as part of a load: read by ranges, checked as it arrives, kept on the SSD on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cuda_kernels.digest import chunk_digest
from loaders.errors import CheckpointCorruptError, LoaderError
from loaders.remote.copies import GrowingCopy
from loaders.remote.fetcher import Fetcher
from loaders.remote.transport import RemoteFile


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RangeFile:
    """What a load plan refers to in place of an open file."""

    remote: RemoteFile
    fetcher: Fetcher
    #: By offset; none where the form has none.
    digests: Mapping[int, int]
    #: None when nothing is to stay on the SSD.
    copy: GrowingCopy | None

    @property
    def where(self) -> str:
        """Names the file in errors."""
        return self.remote.where

    def reader(self) -> RangeReader:
        """Make a reader of it."""
        return RangeReader(self)

    def check_unchanged(self) -> None:
        """Raise RemoteChangedError if it is another file by now."""
        self.fetcher.check_unchanged(self.remote)


class RangeReader:
    """Reads chunks; several threads may do so at once. A context manager, as readers of local files are."""

    def __init__(self, file: RangeFile) -> None:
        self._file = file

    def read(self, chunks: Sequence[memoryview], offset: int, num_bytes: int) -> None:
        """Fill page-aligned memory, a chunk each, with what has the right digest; keep it, if that is wanted.

        Raises CheckpointCorruptError for a digest that is wrong twice, and what the fetcher raises. After an error
        nobody reads on: all who wait for bytes of this checkpoint are woken up, and get the same error.
        """
        end = offset + num_bytes
        try:
            for memory in chunks:
                self._read(memory, offset, min(memory.nbytes, end - offset))
                offset += memory.nbytes
        except LoaderError as error:
            raise self._file.fetcher.fail(error) from error.__cause__

    def _read(self, memory: memoryview, offset: int, num_bytes: int) -> None:
        file, expected = self._file, self._file.digests.get(offset)
        if file.copy is not None and file.copy.recover(memory, offset, num_bytes, expected):
            return
        digest = self._fetch(memory[:num_bytes], offset, expected)
        if file.copy is not None:
            file.copy.put(memory, offset, num_bytes, chunk_digest(memory[:num_bytes]) if digest is None else digest)

    def _fetch(self, memory: memoryview, offset: int, expected: int | None) -> int | None:
        """Get a chunk and return its digest, None where there is none to compare it with."""
        found = 0
        # Wrong once may have happened on the way; wrong twice is the file.
        for _ in range(2):
            self._file.fetcher.read(self._file.remote, offset, memory)
            if expected is None or (found := chunk_digest(memory)) == expected:
                return expected
        raise CheckpointCorruptError(
            f"{self._file.where}: chunk at byte {offset}: digest {found:016x}, expected {expected:016x}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The fetcher keeps the connections."""
