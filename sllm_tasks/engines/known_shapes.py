"""What kinds of models keep of a token, found out at most once in a process.

To run two tokens for it takes about as long as a prompt does: they read all weights, which a load from memory does not.
Without weights only Python's time is left, and it can be done beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from sllm_tasks.engines.kinds import kind_of
from sllm_tasks.engines.layer_shapes import LayerShape, shapes_of
from sllm_tasks.engines.memo import Memo

_known = Memo[tuple[LayerShape, ...]](256)


def known_shapes(model: PreTrainedModel) -> Sequence[LayerShape]:
    """Tell what a model keeps of a token, running it if need be; raises what `shapes_of` raises."""
    return _known.find(kind_of(model), lambda: shapes_of(model))


def rehearse_shapes(model: PreTrainedModel, device: torch.device) -> None:
    """Run a model without memory, as it would be if all of it were on `device`.

    Raises whatever the code of models does that wants to look into its tensors; a load will run such a one.
    """
    _known.find(kind_of(model, device), lambda: tuple(_on(device, shape) for shape in shapes_of(model)))


def _on(device: torch.device, shape: LayerShape) -> LayerShape:
    return LayerShape(replace(shape.keys, device=device), replace(shape.values, device=device))
