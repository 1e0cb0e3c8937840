"""Try, with a model's own weights and this process's settings, whether its rows really are independent.

That they are is a property of libraries, of their number of threads and of the processor, which nobody guarantees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, cast

import torch
from transformers import PreTrainedModel

from sllm_tasks.engines.rows.arithmetic import same_bits
from sllm_tasks.engines.rows.cache import TokenRow
from sllm_tasks.engines.rows.model import MAX_ROWS, RowModel, RowsUnsupportedError

#: Another order of additions in bf16 gave 0.004 of the spread of the logits, a wrong mask more than 0.5.
_TOLERATED: Final = 0.1


def probe_ids(model: PreTrainedModel, context: int) -> tuple[int, ...]:
    """Make a prompt that fills a block of rows, unless the context is shorter."""
    vocab_size = cast("torch.nn.Embedding", model.get_input_embeddings()).num_embeddings
    return tuple((index * 7919 + 1) % vocab_size for index in range(min(MAX_ROWS, context)))


@torch.inference_mode()
def reference_logits(model: PreTrainedModel, token_ids: Sequence[int]) -> torch.Tensor:
    """Compute the logits as transformers does, before the model is taken over."""
    logits: torch.Tensor = model(input_ids=torch.tensor([token_ids], device=model.device), use_cache=False).logits[0]
    return logits


def probe(rows: RowModel, token_ids: Sequence[int], reference: torch.Tensor) -> str:
    """Compute the same tokens in several ways and return a digest of their logits.

    Needs two slots. Raises RowsUnsupportedError when a way makes a difference, or when the logits are other ones than
    the `reference`: then the model does something that rows leave out.
    """
    expected = rows.forward(token_ids, [TokenRow(0, position) for position in range(len(token_ids))])
    if rows.cache.num_attended != len(rows.cache.layers):
        raise RowsUnsupportedError("its attention does not go through transformers' interface")
    spread, distance = reference.float().std(), (expected - reference).float().abs().mean()
    # Written so that NaN, which compares as false, is refused.
    if not distance <= _TOLERATED * spread:
        raise RowsUnsupportedError("row by row, it does not compute what it computes in one piece")
    for block in _blocks(len(token_ids)):
        found = rows.forward([token_ids[row.position] for row in block], block)
        if not same_bits(found, expected[[row.position for row in block]]):
            raise RowsUnsupportedError(
                f"a token's logits are others among {len(block)} rows than among {len(token_ids)} on this machine"
            )
    return hashlib.sha256(expected.contiguous().view(torch.uint8).cpu().numpy().tobytes()).hexdigest()[:16]


def _blocks(num_tokens: int) -> list[list[TokenRow]]:
    """Feed the second slot in pieces of many sizes, some of them between tokens of the first."""
    blocks, begin = [], 0
    for size, is_mixed in ((5, False), (1, False), (1, True), (2, True), (7, True), (MAX_ROWS, False)):
        positions = range(begin, min(begin + size, num_tokens))
        block = [TokenRow(1, position) for position in positions]
        if is_mixed:
            block = [row for own in block for row in (TokenRow(0, num_tokens - 1 - own.position), own)]
        if block:
            blocks.append(block)
        begin += size
    return blocks
