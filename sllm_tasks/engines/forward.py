"""One loaded model and its forward pass: alone for a prompt, together for the next token of every running job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from loaders.emptying import empty_model
from sllm_tasks.engines.base import EngineLimits
from sllm_tasks.engines.equality import describe
from sllm_tasks.engines.known_shapes import known_shapes
from sllm_tasks.engines.kv_cache import BatchCache, ParkedRow
from sllm_tasks.engines.loading import LoadedModel
from sllm_tasks.engines.prompts import PromptReader
from sllm_tasks.jobs import EqualityClass, Exactness


class ForwardModel:
    """A model with the cache of its running jobs. Owned by the engine's thread."""

    def __init__(self, loaded: LoadedModel, limits: EngineLimits, *, downgrade: str = "") -> None:
        """Allocate the cache; `downgrade` says why the model is not decoded exactly, if it was to be."""
        self._model = model = loaded.model
        self._prompts = PromptReader(model)
        self.eos_token_ids = loaded.eos_token_ids
        #: Rows of the embedding: ids from there on do not exist.
        self.vocab_size = cast("torch.nn.Embedding", model.get_input_embeddings()).num_embeddings
        self.equality_class = EqualityClass(exactness=Exactness.TOKEN, fingerprint=describe(model), downgrade=downgrade)
        self.batch = BatchCache(known_shapes(model), max_rows=limits.max_jobs, max_columns=limits.context)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows together."""
        return self.batch.num_tokens

    def begin(self) -> ParkedRow:
        """Take a free row of the batch."""
        return self.batch.park()

    def prefill(self, prefill: ParkedRow, token_ids: Sequence[int]) -> torch.Tensor:
        """Show the model more of a prompt and return the logits behind its last token, of shape (1, vocabulary)."""
        return self._prompts.read(prefill.cache, token_ids)

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
            input_ids=torch.tensor(token_ids, device=self._model.device).unsqueeze(1),
            attention_mask=self.batch.attention_mask().to(self._model.device),
            past_key_values=self.batch.cache,
            use_cache=True,
            **self._prompts.positions(positions),
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
