"""What a model keeps of each token, layer by layer, as a cache tells that it has filled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin


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
