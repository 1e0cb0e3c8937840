"""Which models are of one kind: what is found out with one of them holds for all, whatever their weights are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel


def kind_of(model: PreTrainedModel, device: torch.device | None = None) -> bytes:
    """Name what a model computes but for its weights: its class and config, its tensors' types and places.

    With a `device`: as if all of it were there.
    """
    kind = hashlib.sha256()
    for text in _texts(model, device):
        kind.update(f"{len(text)}:{text}".encode())
    return kind.digest()


def _texts(model: PreTrainedModel, device: torch.device | None) -> Iterable[str]:
    yield f"{type(model).__module__}.{type(model).__qualname__}"
    yield model.config.to_json_string(use_diff=False)
    for name, tensor in model.named_parameters():
        yield f"{name} {tensor.dtype} {tuple(tensor.shape)} {device or tensor.device}"
