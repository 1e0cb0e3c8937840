"""A model that gives a token the same logits, bit for bit, whatever else is computed beside it.

Every token is a row. Prompts and running jobs go through the same blocks of rows, with arithmetic (`arithmetic`) and
attention (`attention`) that treat each row as if it were alone. So it does not matter how a prompt is cut, which jobs
run together, or whether a token was once an output and is now, after a migration, part of a prompt.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Final, cast

import torch
from transformers import PreTrainedModel

from loaders.emptying import empty_model
from sllm_tasks.engines.base import EngineError
from sllm_tasks.engines.rows.arithmetic import CANONICAL_ROWS, RowArithmetic, Sizes
from sllm_tasks.engines.rows.attention import ROW_ATTENTION
from sllm_tasks.engines.rows.cache import RowCache, TokenRow

#: More rows at once would let the libraries split what is computed element by element in more ways than are tried
#: when a model is loaded; a CPU is busy with far fewer, and a GPU reads its weights rarely enough.
MAX_ROWS: Final = 64
#: Elements that a vector unit takes at a time, in the widest registers there are and with the loop unrolled.
_VECTOR_ELEMENTS: Final = 64
#: The only way of computing experts that treats every token by itself.
_ROW_EXPERTS: Final = "batched_mm"


class RowsUnsupportedError(EngineError):
    """A model cannot be decoded by canonical rows; the message says why."""


class RowModel:
    """See the module's docstring. Owned by the engine's thread."""

    def __init__(self, model: PreTrainedModel, *, num_slots: int, context: int, sizes: Sizes) -> None:
        """Take over a model; `release` gives it back. Raises RowsUnsupportedError, and then has not taken it.

        `sizes` are those that were found before with the same weights.
        """
        self._model = model
        self.cache = RowCache(num_slots=num_slots, context=context)
        accepted = inspect.signature(model.forward).parameters
        if "position_ids" not in accepted:
            raise RowsUnsupportedError("it takes no positions")
        self._takes_logits_to_keep = "logits_to_keep" in accepted
        self._attention_before = cast("str", model.config._attn_implementation)  # noqa: SLF001 - it has no public name
        self._experts_before = getattr(model.config, "_experts_implementation", None)
        self._set_implementations(ROW_ATTENTION, _ROW_EXPERTS)
        if model.config._attn_implementation != ROW_ATTENTION:  # noqa: SLF001 - as above
            self.release()
            raise RowsUnsupportedError("its attention cannot be replaced")
        self._arithmetic = RowArithmetic(sizes)
        #: Rows of the embedding.
        self.vocab_size = cast("torch.nn.Embedding", model.get_input_embeddings()).num_embeddings
        self._row_multiple = _row_multiple(model, self.vocab_size)

    @property
    def sizes(self) -> Sizes:
        """In how large blocks products are computed, as far as their weights were met."""
        return self._arithmetic.sizes

    def release(self) -> None:
        """Make the model what it was, and free the cache."""
        self.cache.free()
        self._set_implementations(self._attention_before, self._experts_before)

    def free(self) -> None:
        """Free the model's weights and the cache; nothing is computed any more."""
        empty_model(self._model)
        self.cache.free()

    @torch.inference_mode()
    def forward(
        self, token_ids: Sequence[int], rows: Sequence[TokenRow], wanted: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Show the model a block of tokens, each at its place; returns the logits of the `wanted` ones, or of all."""
        device = self._model.device
        padding = [0] * (-len(token_ids) % self._row_multiple)
        self.cache.expect(rows, device)
        self._arithmetic.num_rows = len(token_ids)
        self._arithmetic.num_padded = len(token_ids) + len(padding)
        # On the CPU, whose numbers may choose rows of any device: the last layer may be on another one than the first.
        kept = torch.tensor(range(len(token_ids)) if wanted is None else wanted)
        with self._arithmetic:
            output = self._model(
                input_ids=torch.tensor([[*token_ids, *padding]], device=device),
                position_ids=torch.tensor([[*(row.position for row in rows), *padding]], device=device),
                past_key_values=self.cache,
                use_cache=True,
                row_cache=self.cache,
                **({"logits_to_keep": kept} if self._takes_logits_to_keep else {}),
            )
        logits: torch.Tensor = output.logits[0]
        return logits if self._takes_logits_to_keep else logits[kept]

    def _set_implementations(self, attention: str, experts: str | None) -> None:
        self._model.set_attn_implementation(attention)
        if experts is not None and self._model._can_set_experts_implementation():  # noqa: SLF001 - as for attention
            self._model.set_experts_implementation(experts)


def _row_multiple(model: PreTrainedModel, vocab_size: int) -> int:
    """Say of what the number of rows must be a multiple, so that rows of any layer fill whole vectors.

    A vector unit treats what is left over differently, so nothing must be.
    """
    widths = set()
    for module in model.modules():
        for weight in module.parameters(recurse=False):
            # Of a table, the number of entries is no width.
            widths |= set(weight.shape[-1:] if isinstance(module, torch.nn.Embedding) else weight.shape[-2:])
    return min(CANONICAL_ROWS, _VECTOR_ELEMENTS // math.gcd(_VECTOR_ELEMENTS, *(widths - {vocab_size})))
