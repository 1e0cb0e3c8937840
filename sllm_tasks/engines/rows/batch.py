"""Jobs over a model of canonical rows: each has a slot, from the first token of its prompt to its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sllm_tasks.engines.base import EngineLimits
from sllm_tasks.engines.rows.cache import TokenRow
from sllm_tasks.engines.rows.model import MAX_ROWS, RowModel
from sllm_tasks.jobs import EqualityClass


@dataclass(slots=True, eq=False)
class SlotJob:
    """The tokens of one job: its slot of the cache, and how many are there."""

    slot: int
    num_tokens: int = 0


class RowBatch:
    """See `BatchModel` for what each method is for. Owned by the engine's thread."""

    def __init__(
        self, rows: RowModel, limits: EngineLimits, eos_token_ids: frozenset[int], equality_class: EqualityClass
    ) -> None:
        self._model = rows
        self.eos_token_ids = eos_token_ids
        self.vocab_size = rows.vocab_size
        self.equality_class = equality_class
        self._free = list(range(num_slots(limits)))
        self._rows: list[SlotJob] = []

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows together."""
        return sum(row.num_tokens for row in self._rows)

    def begin(self) -> SlotJob:
        """Take a slot for a prompt."""
        return SlotJob(self._free.pop())

    def prefill(self, prefill: SlotJob, token_ids: Sequence[int]) -> torch.Tensor:
        """Show the model more of a prompt and return the logits behind its last token, of shape (1, vocabulary)."""
        logits = torch.empty(0)
        for begin in range(0, len(token_ids), MAX_ROWS):
            block = token_ids[begin : begin + MAX_ROWS]
            rows = [TokenRow(prefill.slot, prefill.num_tokens + index) for index in range(len(block))]
            logits = self._model.forward(block, rows, wanted=[len(block) - 1])
            prefill.num_tokens += len(block)
        return logits

    def join(self, prefill: SlotJob) -> None:
        """Append a row with the tokens of a prompt; they stay where they are."""
        self._rows.append(prefill)

    def discard(self, prefill: SlotJob) -> None:
        """Free the slot; what it holds is never read by whoever gets it next."""
        self._free.append(prefill.slot)

    def decode(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Show the model one more token of every row and return the logits, of shape (rows, vocabulary)."""
        rows = [TokenRow(row.slot, row.num_tokens) for row in self._rows]
        blocks = range(0, len(rows), MAX_ROWS)
        return torch.cat([self._model.forward(token_ids[b : b + MAX_ROWS], rows[b : b + MAX_ROWS]) for b in blocks])

    def commit(self) -> None:
        """Count the tokens of the last `decode`."""
        for row in self._rows:
            row.num_tokens += 1

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its number."""
        self.discard(self._rows[row])
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def free(self) -> None:
        """Free the weights and all slots."""
        self._model.free()


def num_slots(limits: EngineLimits) -> int:
    """As many as jobs run together, and one for a prompt on its way in."""
    return limits.max_jobs + 1
