"""What a checkpoint is made from, in one form: tensors that are views of storages, and the storages' bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTensor:
    """A named view of one of the source's storages."""

    name: str
    #: Which of `Source.storage_bytes`.
    storage: int
    dtype: str
    shape: tuple[int, ...]
    #: In elements, as is the offset.
    stride: tuple[int, ...]
    storage_offset: int = 0


class Source(Protocol):
    """Tensors to write. Owns what it has opened; several threads may read at once."""

    @property
    def description(self) -> str:
        """What it is, for people; ends up in the manifest."""

    @property
    def tensors(self) -> tuple[SourceTensor, ...]:
        """Every tensor; the order means nothing."""

    @property
    def storage_bytes(self) -> tuple[int, ...]:
        """Size of each storage."""

    @property
    def model_files(self) -> Mapping[str, bytes]:
        """The execution files by name."""

    @property
    def fingerprint(self) -> str | None:
        """Text that changes when the bytes may have changed; None if there is no telling without reading them."""

    def read(self, storage: int, offset: int, buffer: memoryview) -> None:
        """Fill a buffer from a storage; raises StorageError or CheckpointCorruptError."""

    def check_unchanged(self) -> None:
        """Raise CheckpointCorruptError if the bytes may have changed since the source was opened."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
