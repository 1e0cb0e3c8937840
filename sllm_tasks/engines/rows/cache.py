"""Keys and values of all jobs, one slot per job: a token's place depends on its job and its position alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from sllm_tasks.engines.layer_shapes import LayerShape, TokenShape
from sllm_tasks.engines.lazy_zeros import lazy_zeros

#: Slots begin at multiples of so many tokens, so that each is aligned as the first one is.
_ALIGNED_TOKENS = 64


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token that goes through the model: the slot of its job, and its position there."""

    slot: int
    position: int


class RowLayer(CacheLayerMixin):
    """The slots of one layer, as transformers wants to see a cache layer."""

    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # transformers' constructor
        self._cache = cache
        #: None until it is allocated.
        self.shape: LayerShape | None = None
        # Keys and values of shape (slots, heads, tokens, head size).
        self._slots = (torch.empty(0), torch.empty(0))

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the slots for what the first token tells."""
        self.allocate(LayerShape(TokenShape.of(key_states), TokenShape.of(value_states)))

    def allocate(self, shape: LayerShape) -> None:
        """Allocate the slots."""
        num_slots, num_tokens = self._cache.num_slots, self._cache.num_tokens
        keys, values = (
            lazy_zeros((num_slots, of.num_heads, num_tokens, of.head_dim), of.dtype, of.device)
            for of in (shape.keys, shape.values)
        )
        self.shape = shape
        self._slots = (keys, values)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store each row at its place; rows behind the last place are padding."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        # Layers may lie on several devices.
        slots, positions = (places.to(key_states.device) for places in self._cache.places)
        for kept, states in zip(self._slots, (key_states, value_states), strict=True):
            kept[slots, :, positions] = states[0].transpose(0, 1)[: len(slots)]
        return key_states, value_states

    def slots(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, of shape (slots, heads, tokens, head size)."""
        return self._slots

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Nothing is hidden by a mask."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Positions are always given, so nobody has to count."""
        return 0

    def get_max_length(self) -> int:
        """Tokens of one slot."""
        return self._cache.num_tokens


class RowCache(Cache):
    """The slots of all layers, and which tokens are on their way."""

    def __init__(self, *, num_slots: int, context: int) -> None:
        # Transformers makes layers as it meets them, and calls what it takes for their class; ours have a cache.
        super().__init__(layer_class_to_replicate=cast("type[CacheLayerMixin]", partial(RowLayer, self)))
        self.num_slots = num_slots
        self.num_tokens = -(-context // _ALIGNED_TOKENS) * _ALIGNED_TOKENS
        self.rows: tuple[TokenRow, ...] = ()
        self.places = (torch.empty(0), torch.empty(0))
        #: Layers whose attention has read this cache since the last `expect`.
        self.num_attended = 0
        #: How far back the attention of each layer was told to look; None: to the first token.
        self.windows: dict[int, int | None] = {}

    def allocate(self, shapes: Sequence[LayerShape]) -> None:
        """Make all layers, of a model whose shapes are known; raises RuntimeError, as torch does without memory."""
        for shape in shapes:
            layer = RowLayer(self)
            self.layers.append(layer)
            layer.allocate(shape)

    @property
    def shapes(self) -> tuple[LayerShape, ...]:
        """What the layers keep of a token, as far as they have seen one or were allocated."""
        return tuple(layer.shape for layer in self.layers if isinstance(layer, RowLayer) and layer.shape is not None)

    def layer(self, index: int) -> RowLayer:
        """One layer, which has seen a token."""
        return cast("RowLayer", self.layers[index])

    def free(self) -> None:
        """Let go of all slots; layers refer to this cache, which would keep them alive."""
        self.layers.clear()

    def expect(self, rows: Sequence[TokenRow], device: torch.device) -> None:
        """Say which tokens come next."""
        self.rows = tuple(rows)
        self.places = (
            torch.tensor([row.slot for row in rows], device=device),
            torch.tensor([row.position for row in rows], device=device),
        )
        self.num_attended = 0
