"""Count how often whole models are run, whoever does it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.module import register_module_forward_hook
from transformers import PreTrainedModel


@contextmanager
def noted_forwards() -> Iterator[list[PreTrainedModel]]:
    """Models with logits that are run meanwhile, one entry for each time."""
    found: list[PreTrainedModel] = []

    def note(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, PreTrainedModel) and module.can_generate():
            found.append(module)

    handle = register_module_forward_hook(note)
    try:
        yield found
    finally:
        handle.remove()
