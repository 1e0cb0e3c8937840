"""Load a checkpoint directory: `with load(path, "cuda:0") as checkpoint: model = checkpoint.model()`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from loaders.architecture import eos_token_ids, read_config
from loaders.directory import CheckpointDirectory
from loaders.errors import LoaderError
from loaders.restore import restore
from loaders.weights import read_headers, read_tensors, stored_dtype


class LoadedCheckpoint:
    """The tensors of a checkpoint on one device.

    On the CPU they are views of the mapped files. `close` drops them; a model made from them keeps what it needs.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        tensors: Mapping[str, torch.Tensor],
        *,
        dtype: torch.dtype,
        eos_token_ids: frozenset[int],
    ) -> None:
        self._config = config
        self._tensors = tensors
        #: The type that the weights are stored in.
        self.dtype = dtype
        #: Ids that end a text.
        self.eos_token_ids = eos_token_ids

    @property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """Every stored tensor by name; raises LoaderError after `close`."""
        if not self._tensors:
            raise LoaderError("the checkpoint is closed")
        return MappingProxyType(dict(self._tensors))

    @property
    def num_bytes(self) -> int:
        """Size of all tensors together."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def model(self) -> PreTrainedModel:
        """Build a model over the tensors: on their device, in the stored type, in eval mode, without gradients."""
        return restore(self._config, self.tensors, self.dtype)

    def close(self) -> None:
        """Let go of the tensors; idempotent."""
        self._tensors = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<LoadedCheckpoint {self._config.model_type} {len(self._tensors)} tensors {self.num_bytes} bytes>"


def load(path: Path, device: str = "cpu") -> LoadedCheckpoint:
    """Read a checkpoint directory to `device`; raises LoaderError.

    `torch.OutOfMemoryError` passes through when the device has no room.
    """
    directory = CheckpointDirectory(Path(path))
    config = read_config(directory)
    shards = directory.shards()
    return LoadedCheckpoint(
        config,
        read_tensors(shards, device),
        dtype=stored_dtype(read_headers(shards)),
        eos_token_ids=eos_token_ids(directory, config),
    )
