"""Fix rotary embeddings of the type `longrope` for a load: one set of factors, whatever the rows of a step are.

Transformers chooses the factors for short or for long texts by the longest row of a forward pass. In a batch, a job's
tokens would hang on its neighbours, and a job that grows over the border would go on over keys of the other set.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

_LONGROPE = "longrope"
_NEVER_UPDATED = "default"


def fix_rope(model: PreTrainedModel, context: int) -> None:
    """Use the factors for long texts if jobs may become longer than the original model, else those for short ones.

    The type `dynamic` needs nothing: its frequencies change beyond `max_position_embeddings`, where no context goes.
    """
    for module in model.modules():
        for layer_type in _longrope_types(module):
            _fix(module, layer_type, context)


def _longrope_types(rope: Any) -> list[str | None]:
    """Kinds of layers for which a module is a rotary embedding of that type; None for all, where there is one kind."""
    if not hasattr(rope, "rope_type"):
        return []
    types = rope.rope_type if isinstance(rope.rope_type, dict) else {None: rope.rope_type}
    return [layer_type for layer_type, kind in types.items() if kind == _LONGROPE]


def _fix(rope: Any, layer_type: str | None, context: int) -> None:
    config, name = rope.config, f"{layer_type}_inv_freq" if layer_type else "inv_freq"
    options = {"layer_type": layer_type} if layer_type else {}
    frequencies, _ = ROPE_INIT_FUNCTIONS[_LONGROPE](config, getattr(rope, name).device, seq_len=context, **options)
    setattr(rope, name, frequencies)
    # What every forward pass would choose by.
    rope.rope_type = {**rope.rope_type, layer_type: _NEVER_UPDATED} if layer_type else _NEVER_UPDATED
    parameters = config.rope_parameters
    if "long_mscale" in parameters:
        # PhiMoE chooses by itself, and between two factors of all angles' sines and cosines.
        is_long = context > parameters["original_max_position_embeddings"]
        chosen = parameters["long_mscale" if is_long else "short_mscale"]
        rope.config = copy(config)
        rope.config.rope_parameters = {**parameters, "long_mscale": chosen, "short_mscale": chosen}
