"""A state dict as a source: any strided tensors, on any device; what shares a storage goes on sharing it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import numpy as np
import torch

from loaders.errors import CheckpointUnsupportedError
from loaders.format.torch_dtypes import NAMES
from loaders.writer.sources import SourceTensor


class StateDictSource:
    """Holds the tensors of a state dict; they must not be changed meanwhile."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.description = "a state dict"
        self.model_files: Mapping[str, bytes] = {}
        #: Tensors in memory carry no mark that would tell what they were an hour ago.
        self.fingerprint = None
        # The bytes of each storage, on its device. Held, so that no address is given out twice.
        self._storages: list[torch.Tensor] = []
        self._numbers: dict[tuple[torch.device, int, int], int] = {}
        self.tensors = tuple(self._add(name, tensor) for name, tensor in tensors.items())
        self.storage_bytes = tuple(len(storage) for storage in self._storages)

    def read(self, storage: int, offset: int, buffer: memoryview) -> None:
        """Copy a part of a storage."""
        part = self._storages[storage][offset : offset + len(buffer)]
        np.frombuffer(buffer, dtype=np.uint8)[:] = part.cpu().numpy()

    def check_unchanged(self) -> None:
        """Nothing can be said about tensors in memory."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._storages.clear()

    def _add(self, name: str, tensor: torch.Tensor) -> SourceTensor:
        dtype = NAMES.get(tensor.dtype)
        if dtype is None or tensor.layout is not torch.strided or tensor.is_meta:
            raise CheckpointUnsupportedError(
                f"tensor {name}: {tensor.dtype}, {tensor.layout}, on {tensor.device}; "
                "expected strided, not quantized, with data"
            )
        # Lazy conjugates and negatives are marks beside the bytes: what is stored is what they stand for.
        plain = tensor.detach().resolve_conj().resolve_neg()
        return SourceTensor(
            name=name,
            storage=self._number(name, plain),
            dtype=dtype,
            shape=tuple(plain.shape),
            stride=plain.stride(),
            storage_offset=int(plain.storage_offset()),
        )

    def _number(self, name: str, tensor: torch.Tensor) -> int:
        try:
            storage = tensor.untyped_storage()
            key = (tensor.device, storage.data_ptr(), storage.nbytes())
        except (RuntimeError, NotImplementedError) as error:
            raise CheckpointUnsupportedError(
                f"tensor {name}: {type(tensor).__name__} has no bytes of its own"
            ) from error
        # Storages without bytes all have the same address.
        number = self._numbers.get(key) if storage.nbytes() else None
        if number is None:
            number = self._numbers[key] = len(self._storages)
            self._storages.append(torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage))
        return number
