"""One loaded model and its forward pass: alone for a prompt, together for the next token of every running job."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedModel

from loaders import checkpoint
from loaders.architecture import max_context
from loaders.errors import (
    CheckpointCorruptError,
    CheckpointMissingError,
    CheckpointUnsupportedError,
    LoadCanceledError,
    LoaderError,
    TokenizerMissingError,
)
from sllm_tasks.engines.base import CheckpointLoader, EngineLimits
from sllm_tasks.engines.kv_cache import BatchCache, keys_and_values
from sllm_tasks.errors import ErrorCode, ModelUnusableError, OutOfMemoryError, StaleError

_ERROR_CODES: dict[type[LoaderError], ErrorCode] = {
    CheckpointMissingError: ErrorCode.CHECKPOINT_MISSING,
    CheckpointCorruptError: ErrorCode.CHECKPOINT_CORRUPT,
    CheckpointUnsupportedError: ErrorCode.CHECKPOINT_UNSUPPORTED,
    TokenizerMissingError: ErrorCode.TOKENIZER_MISSING,
}


@dataclass(slots=True)
class Prefill:
    """A prompt on its way into the model."""

    cache: DynamicCache

    @property
    def num_tokens(self) -> int:
        """Tokens that the model has seen."""
        return int(self.cache.get_seq_length())


class ForwardModel:
    """A model with the cache of its running jobs. Owned by the engine's thread."""

    def __init__(self, model: PreTrainedModel, limits: EngineLimits, eos_token_ids: frozenset[int]) -> None:
        self._model = model
        self.eos_token_ids = eos_token_ids
        accepted = inspect.signature(model.forward).parameters
        # Models with ALiBi have no positions; a few compute the logits of a whole prompt whether wanted or not.
        self._takes_position_ids = "position_ids" in accepted
        self._prefill_options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        #: Rows of the embedding: ids from there on do not exist.
        self.vocab_size = cast("torch.nn.Embedding", model.get_input_embeddings()).num_embeddings
        if limits.context > max_context(model.config):
            raise ModelUnusableError(
                ErrorCode.CONTEXT_LENGTH_EXCEEDED,
                f"a context of {limits.context} was asked for, the model has positions for {max_context(model.config)}",
            )
        self.batch = BatchCache(self._probe(), max_rows=limits.max_jobs, max_columns=limits.context)

    @classmethod
    def load(
        cls, path: Path, devices: tuple[str, ...], limits: EngineLimits, load: CheckpointLoader | None
    ) -> ForwardModel:
        """Load a checkpoint and allocate its cache; raises ModelUnusableError, OutOfMemoryError or StaleError."""
        load = load or partial(checkpoint.load, device=devices)
        try:
            with load(path, with_model=True) as loaded:
                return cls(loaded.model(), limits, loaded.model_files.eos_token_ids)
        except LoadCanceledError as error:
            raise StaleError(str(error)) from error
        except LoaderError as error:
            raise ModelUnusableError(_ERROR_CODES.get(type(error), ErrorCode.INTERNAL), str(error)) from error
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(f"{path} does not fit on {', '.join(devices)}: {error}") from error
            raise

    @torch.inference_mode()
    def prefill(self, prefill: Prefill, token_ids: Sequence[int]) -> torch.Tensor:
        """Show the model more of a prompt and return the logits behind its last token, of shape (1, vocabulary)."""
        seen = prefill.num_tokens
        output = self._model(
            input_ids=self._tensor([token_ids]),
            past_key_values=prefill.cache,
            use_cache=True,
            **self._positions(torch.arange(seen, seen + len(token_ids)).unsqueeze(0)),
            **self._prefill_options,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    @torch.inference_mode()
    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Show the model one more token of every row and return the logits, of shape (rows, vocabulary).

        The token counts once `batch.commit_column` is called; until then the step can be done again.
        """
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

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.tensor(values, device=self._model.device)

    def _positions(self, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"position_ids": positions.to(self._model.device)} if self._takes_position_ids else {}

    def _probe(self) -> DynamicCache:
        """Run two tokens, which warms the model up, and make sure that its only state is keys and values."""
        if self._model._is_stateful:  # noqa: SLF001 - how transformers marks them, for lack of a public name
            raise self._not_supported("it keeps a recurrent state")
        prefill = Prefill(DynamicCache())
        try:
            self.prefill(prefill, [0, 0])
            lengths = {part.shape[-2] for pair in keys_and_values(prefill.cache) for part in pair}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise self._not_supported(str(error)) from error
        except RuntimeError as error:
            if "on the same device" not in str(error):
                raise
            raise self._not_supported(f"its layers do not run on several devices: {error}") from error
        if lengths != {2}:
            raise self._not_supported("its cache does not hold every token")
        return prefill.cache

    def _not_supported(self, why: str) -> ModelUnusableError:
        name = type(self._model).__name__
        return ModelUnusableError(
            ErrorCode.CHECKPOINT_UNSUPPORTED, f"{name} cannot be decoded token by token in a batch: {why}"
        )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether torch had no memory; the CPU's allocator has no error class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def release_memory() -> None:
    """Give back what models that are no longer referenced held; models refer to themselves in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
