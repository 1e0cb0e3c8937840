"""One loaded model and its forward pass: alone for a prompt, together for the next token of every running job."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache

from loaders.emptying import empty_model
from sllm_tasks.engines.base import EngineLimits
from sllm_tasks.engines.equality import describe
from sllm_tasks.engines.kinds import kind_of
from sllm_tasks.engines.kv_cache import BatchCache, ParkedRow
from sllm_tasks.engines.layer_shapes import LayerShape, filled_shapes
from sllm_tasks.engines.loading import LoadedModel
from sllm_tasks.engines.memo import Memo
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.jobs import EqualityClass, Exactness

#: By kind of model. To run two tokens for it takes about as long as a prompt does: they read all weights, which a load
#: from memory does not.
_known_shapes = Memo[tuple[LayerShape, ...]](256)


class ForwardModel:
    """A model with the cache of its running jobs. Owned by the engine's thread."""

    def __init__(self, loaded: LoadedModel, limits: EngineLimits, *, downgrade: str = "") -> None:
        """Allocate the cache; `downgrade` says why the model is not decoded exactly, if it was to be."""
        self._model = model = loaded.model
        self.eos_token_ids = loaded.eos_token_ids
        accepted = inspect.signature(model.forward).parameters
        # Models with ALiBi have no positions; a few compute the logits of a whole prompt whether wanted or not.
        self._takes_position_ids = "position_ids" in accepted
        self._takes_logits_to_keep = "logits_to_keep" in accepted
        #: Rows of the embedding: ids from there on do not exist.
        self.vocab_size = cast("torch.nn.Embedding", model.get_input_embeddings()).num_embeddings
        self.equality_class = EqualityClass(exactness=Exactness.TOKEN, fingerprint=describe(model), downgrade=downgrade)
        shapes = _known_shapes.find(kind_of(model), self._run_two_tokens)
        self.batch = BatchCache(shapes, max_rows=limits.max_jobs, max_columns=limits.context)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows together."""
        return self.batch.num_tokens

    def begin(self) -> ParkedRow:
        """Take a free row of the batch."""
        return self.batch.park()

    def prefill(self, prefill: ParkedRow, token_ids: Sequence[int]) -> torch.Tensor:
        """Show the model more of a prompt and return the logits behind its last token, of shape (1, vocabulary)."""
        return self._read(prefill.cache, token_ids)

    @torch.inference_mode()
    def _read(self, cache: Cache, token_ids: Sequence[int]) -> torch.Tensor:
        seen = cache.get_seq_length()
        output = self._model(
            input_ids=self._tensor([token_ids]),
            past_key_values=cache,
            use_cache=True,
            **self._positions(torch.arange(seen, seen + len(token_ids)).unsqueeze(0)),
            **self._last_logits(len(token_ids)),
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def join(self, prefill: ParkedRow) -> None:
        """Append a row with the tokens of a prompt."""
        self.batch.join(prefill)

    def discard(self, prefill: ParkedRow) -> None:
        """Free the row of a prompt that will not join."""
        self.batch.discard(prefill)

    @torch.inference_mode()
    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Show the model one more token of every row and return the logits, of shape (rows, vocabulary)."""
        self.batch.reserve_column()
        positions = torch.tensor(self.batch.lengths).unsqueeze(1)
        output = self._model(
            input_ids=self._tensor(token_ids).unsqueeze(1),
            attention_mask=self.batch.attention_mask().to(self._model.device),
            past_key_values=self.batch.cache,
            use_cache=True,
            **self._positions(positions),
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def commit(self) -> None:
        """Count the tokens of the last `decode`."""
        self.batch.commit_column()

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its number."""
        self.batch.leave(row)

    def free(self) -> None:
        """Free the weights; keys and values go with the last who refers to them."""
        empty_model(self._model)

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, device=self._model.device)

    def _last_logits(self, num_tokens: int) -> dict[str, torch.Tensor | int]:
        """Ask for the logits behind the last of some tokens alone.

        On a CPU not as the last one but by its number: the slice that models make of the former has strides with which
        torch 2.13 copies all of a bf16 output layer (0.73 s for 50,272 x 2048, by number 0.013; AMD EPYC).
        """
        if not self._takes_logits_to_keep:
            return {}
        is_cpu = self._model.device.type == "cpu"
        return {"logits_to_keep": torch.tensor([num_tokens - 1]) if is_cpu else 1}

    def _positions(self, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"position_ids": positions.to(self._model.device)} if self._takes_position_ids else {}

    def _run_two_tokens(self) -> tuple[LayerShape, ...]:
        """See what the model keeps of them, and make sure that its only state is keys and values."""
        if self._model._is_stateful:  # noqa: SLF001 - how transformers marks them, for lack of a public name
            raise self._not_supported("it keeps a recurrent state")
        cache = DynamicCache()
        try:
            self._read(cache, [0, 0])
            return filled_shapes(cache, num_tokens=2)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise self._not_supported(str(error)) from error
        except RuntimeError as error:
            if "on the same device" not in str(error):
                raise
            raise self._not_supported(f"its layers do not run on several devices: {error}") from error

    def _not_supported(self, why: str) -> ModelUnusableError:
        name = type(self._model).__name__
        return ModelUnusableError(
            ErrorCode.CHECKPOINT_UNSUPPORTED, f"{name} cannot be decoded token by token in a batch: {why}"
        )
