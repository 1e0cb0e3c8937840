"""Whether a model can be decoded token by token, many jobs at once; found out without its weights."""

from __future__ import annotations

import inspect
from typing import Final

import torch
from transformers import PreTrainedModel

from loaders.errors import CheckpointUnsupportedError

#: They take no positions and need none: their attention goes by distances, which the mask tells (ALiBi).
_NEED_NONE: Final = frozenset({"bloom", "mpt"})


def check_decodable(model: PreTrainedModel) -> None:
    """Raise CheckpointUnsupportedError unless a job's tokens are the same beside longer jobs as alone."""
    if model._is_stateful:  # noqa: SLF001 - how transformers marks them, for lack of a public name
        raise _refused(model, "it keeps a recurrent state")
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    # The decoders of Bart's relatives, Whisper, TrOCR, RoFormer: the length of the cache, which is the longest row's.
    if not takes_positions and model.config.model_type not in _NEED_NONE:
        raise _refused(model, "it counts positions by the longest job of a batch")
    if any(_begins_behind_padding(name, module) for name, module in model.named_modules()):
        raise _refused(model, "its first position is not 0")


def _begins_behind_padding(name: str, module: torch.nn.Module) -> bool:
    """Whether that is a table of positions that begins behind the one of padding, as RoBERTa's relatives have it."""
    return (
        name.endswith("position_embeddings")
        and isinstance(module, torch.nn.Embedding)
        and module.padding_idx is not None
    )


def _refused(model: PreTrainedModel, why: str) -> CheckpointUnsupportedError:
    return CheckpointUnsupportedError(f"{type(model).__name__} cannot be decoded token by token in a batch: {why}")
