"""What a model keeps of each token, layer by layer: found out by running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from sllm_tasks.engines.prompts import PromptReader
from sllm_tasks.errors import ErrorCode, ModelUnusableError


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShape:
    """The keys, or the values, of one token in one layer."""

    num_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, states: torch.Tensor) -> Self:
        """Read it from states of shape (rows, heads, tokens, head size)."""
        _, num_heads, _, head_dim = states.shape
        return cls(num_heads=num_heads, head_dim=head_dim, dtype=states.dtype, device=states.device)


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of a token."""

    keys: TokenShape
    values: TokenShape


def shapes_of(model: PreTrainedModel) -> tuple[LayerShape, ...]:
    """Run two tokens, and see what is kept of them; raises ModelUnusableError unless that is keys and values alone."""
    cache = DynamicCache()
    try:
        PromptReader(model).read(cache, [0, 0])
        return filled_shapes(cache, num_tokens=2)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _not_supported(model, str(error)) from error
    except RuntimeError as error:
        if "on the same device" not in str(error):
            raise
        raise _not_supported(model, f"its layers do not run on several devices: {error}") from error


def filled_shapes(cache: DynamicCache, num_tokens: int) -> tuple[LayerShape, ...]:
    """Read the shapes from a cache that a model has filled; raises ValueError if it holds anything else."""
    found: list[LayerShape] = []
    lengths: set[int] = set()
    for layer in cache.layers:
        if not isinstance(layer, CacheLayerMixin) or layer.keys is None or layer.values is None:
            raise ValueError(f"a cache layer of type {type(layer).__name__} holds no keys and values")
        lengths |= {layer.keys.shape[-2], layer.values.shape[-2]}
        found.append(LayerShape(TokenShape.of(layer.keys), TokenShape.of(layer.values)))
    if lengths != {num_tokens}:
        raise ValueError("its cache does not hold every token")
    return tuple(found)


def _not_supported(model: PreTrainedModel, why: str) -> ModelUnusableError:
    return ModelUnusableError(
        ErrorCode.CHECKPOINT_UNSUPPORTED,
        f"{type(model).__name__} cannot be decoded token by token in a batch: {why}",
    )
