"""What the step loop asks of a model: prompts go in alone, the next tokens of all running jobs together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch

from sllm_tasks.jobs import EqualityClass


class Prefill(Protocol):
    """A prompt on its way into the model."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the model has seen."""


PrefillT = TypeVar("PrefillT", bound=Prefill)


class BatchModel(Protocol[PrefillT]):
    """A loaded model with the keys and values of its jobs. Owned by the engine's thread."""

    @property
    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end a job, from the model's generation settings."""

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding: ids from there on do not exist."""

    @property
    def equality_class(self) -> EqualityClass:
        """Within which other replicas a job gets the same."""

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows together."""

    def begin(self) -> PrefillT:
        """Make room for a prompt; no more than the rows that are free."""

    def prefill(self, prefill: PrefillT, token_ids: Sequence[int]) -> torch.Tensor:
        """Show the model more of a prompt and return the logits behind its last token, of shape (1, vocabulary)."""

    def join(self, prefill: PrefillT) -> None:
        """Append a row with the tokens of a prompt; the prefill is used up."""

    def discard(self, prefill: PrefillT) -> None:
        """Free what a prompt that will not join has taken."""

    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Show the model one more token of every row and return the logits, of shape (rows, vocabulary).

        The tokens count once `commit` is called; until then the step can be done again.
        """

    def commit(self) -> None:
        """Count the tokens of the last `decode`."""

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its number."""

    def free(self) -> None:
        """Free the weights, though others may still refer to the model; nothing else is called after this."""
