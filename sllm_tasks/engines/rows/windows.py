"""How far back layers look, by their model's config: rows hide nothing but what their attention is told to hide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from transformers import PreTrainedConfig, PreTrainedModel

from sllm_tasks.engines.rows.model import RowsUnsupportedError

_CHUNKED: Final = "chunked_attention"
_SLIDING: Final = "sliding_attention"


def check_windows(model: PreTrainedModel, told: Mapping[int, int | None], context: int) -> None:
    """Raise RowsUnsupportedError for a layer that looks back less far than a context, and has not told so.

    Some classes hide the rest by a mask, which never reaches the attention of rows, and a trial is too short to find
    that out. `told` has the window that the attention of each layer was given, None for all that came before.
    """
    config = model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None)
    # Who tells no layer of a window may have one for all of them, whatever kinds their layers are of.
    tells = any(window is not None for window in told.values())
    for layer, window in told.items():
        expected = _window(config, kinds[layer] if kinds and tells else None)
        if window is None and expected is not None and expected < context:
            raise RowsUnsupportedError(f"layer {layer} hides what is {expected} tokens back by a mask")


def _window(config: PreTrainedConfig, kind: str | None) -> int | None:
    chunk: int | None = getattr(config, "attention_chunk_size", None)
    window: int | None = getattr(config, "sliding_window", None)
    return chunk or window if kind is None else {_CHUNKED: chunk, _SLIDING: window}.get(kind)
