"""Whether each row of a batch can be told its own positions; models that count for all rows together are refused."""

from __future__ import annotations

import inspect
from typing import Final

import torch
from transformers import PreTrainedModel

from sllm_tasks.errors import ErrorCode, ModelUnusableError

#: They take no positions and need none: their attention goes by distances, which the mask tells (ALiBi).
_NEED_NONE: Final = frozenset({"bloom", "mpt"})


def check_positions(model: PreTrainedModel) -> None:
    """Raise ModelUnusableError unless a job's tokens have the same positions beside longer jobs as alone."""
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    # Recurrent models are refused for their state.
    needs_none = model.config.model_type in _NEED_NONE or model._is_stateful  # noqa: SLF001 - it has no public name
    # The decoders of Bart's relatives, Whisper, TrOCR, RoFormer: the length of the cache, which is the longest row's.
    if not (takes_positions or needs_none):
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


def _refused(model: PreTrainedModel, why: str) -> ModelUnusableError:
    return ModelUnusableError(
        ErrorCode.CHECKPOINT_UNSUPPORTED, f"{type(model).__name__} cannot be decoded in a batch: {why}"
    )
