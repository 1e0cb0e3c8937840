"""Show a model prompts: what its class takes besides token ids differs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from transformers import Cache, PreTrainedModel


class PromptReader:
    """Reads prompts, or parts of them, into caches."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        accepted = inspect.signature(model.forward).parameters
        # A few models need no positions (`loaders.decodable`); a few compute all logits of a prompt, wanted or not.
        self._takes_position_ids = "position_ids" in accepted
        self._takes_logits_to_keep = "logits_to_keep" in accepted
        # The slice that models make of the last logits has strides with which torch 2.13 copies all of a bf16 output
        # layer on a CPU (0.73 s for 50,272 x 2048, by number 0.013; AMD EPYC), in fp32 not. "meta" stands for it.
        self._keeps_by_number = model.device.type in {"cpu", "meta"} and model.dtype != torch.float32

    @torch.inference_mode()
    def read(self, cache: Cache, token_ids: Sequence[int]) -> torch.Tensor:
        """Append tokens to what a cache holds and return the logits behind the last one, of shape (1, vocabulary)."""
        seen = cache.get_seq_length()
        output = self._model(
            input_ids=torch.tensor([token_ids], device=self._model.device),
            past_key_values=cache,
            use_cache=True,
            **self.positions(torch.arange(seen, seen + len(token_ids)).unsqueeze(0)),
            **self._last_logits(len(token_ids)),
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def positions(self, positions: torch.Tensor) -> dict[str, torch.Tensor]:
        """Tell a model where its tokens are, if it wants to know."""
        return {"position_ids": positions.to(self._model.device)} if self._takes_position_ids else {}

    def _last_logits(self, num_tokens: int) -> dict[str, torch.Tensor | int]:
        """Ask for the logits behind the last of some tokens alone: as the last ones, or by their number."""
        if not self._takes_logits_to_keep:
            return {}
        return {"logits_to_keep": torch.tensor([num_tokens - 1]) if self._keeps_by_number else 1}
