"""A model built over tensors whose bytes are still on their way, so that its skeleton costs no time of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from loaders.restore import restore


class Building:
    """Started when the tensors have their memory, finished when that has its bytes."""

    def __init__(self, config: PreTrainedConfig, dtype: torch.dtype) -> None:
        self._config = config
        self._dtype = dtype
        self._tensors: Mapping[str, torch.Tensor] = {}
        self._model: PreTrainedModel | None = None
        self._thread = threading.Thread(target=self._build, name="build-model", daemon=True)

    def start(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Begin; the bytes of the tensors need not be there."""
        self._tensors = tensors
        self._thread.start()

    def finish(self) -> PreTrainedModel:
        """Return the model, now that the bytes are there; raises LoaderError if they make none."""
        self._thread.join()
        if self._model is None or not _shows(self._model, self._tensors):
            return restore(self._config, self._tensors, self._dtype)
        return self._model

    def _build(self) -> None:
        try:
            self._model = restore(self._config, self._tensors, self._dtype)
        except Exception:  # noqa: BLE001 - built once more by `finish`, where it is raised
            self._model = None


def _shows(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether all that is stored is the tensors themselves: some classes compute theirs from what was not there yet."""
    stored = {tensor.untyped_storage().data_ptr() for tensor in tensors.values()}
    return all(part.untyped_storage().data_ptr() in stored for part in model.state_dict().values())
