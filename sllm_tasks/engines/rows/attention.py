"""Attention of one token at a time: its query, and the keys and values of its own job up to its position.

The shapes of such a call depend on the position alone, so neither the batch nor the way a prompt was cut can matter;
and nothing has to be hidden by a mask.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch.nn import functional
from transformers import AttentionInterface

from sllm_tasks.engines.rows.cache import RowCache

#: The name by which transformers finds `row_attention`.
ROW_ATTENTION: Final = "sllm_rows"
#: What some models want of attention besides, and this one does not do.
_UNKNOWN_TO_US: Final = ("softcap", "s_aux", "position_bias")


def row_attention(  # noqa: PLR0913 - as transformers calls it
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,  # noqa: ARG001 - it is in the cache, beside those of earlier positions
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    row_cache: RowCache | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend for each row of `row_cache`; padding rows become zero. Raises ValueError for what it does not know.

    The layout is that of transformers: (1, heads, rows, head size) comes in, (1, rows, heads, head size) goes out.
    """
    unknown = [name for name in _UNKNOWN_TO_US if options.get(name) is not None]
    if attention_mask is not None or unknown:
        raise ValueError(f"its attention needs {', '.join(unknown) or 'a mask'}")
    if row_cache is None:
        raise ValueError("its layers do not hand on what its attention is to be told")
    layer = row_cache.layer(cast("int", module.layer_idx))
    keys, values = layer.slots()
    queries = query[0].transpose(0, 1)
    num_padded, num_heads, _ = queries.shape
    result = value.new_zeros(num_padded, num_heads, value.shape[-1])
    num_key_heads = keys.shape[1]
    for index, row in enumerate(row_cache.rows):
        begin = 0 if sliding_window is None else max(0, row.position + 1 - sliding_window)
        seen = slice(begin, row.position + 1)
        # Heads that share a key are the queries of one product. A copy, so that all are aligned alike.
        query_row = queries[index].clone(memory_format=torch.contiguous_format)
        grouped = query_row.view(1, num_key_heads, num_heads // num_key_heads, -1)
        attended = functional.scaled_dot_product_attention(
            grouped, keys[row.slot, None, :, seen], values[row.slot, None, :, seen], scale=scaling
        )
        result[index] = attended.view(num_heads, -1)
    row_cache.num_attended += 1
    row_cache.windows[cast("int", module.layer_idx)] = sliding_window
    return result.unsqueeze(0), None


AttentionInterface.register(ROW_ATTENTION, row_attention)
