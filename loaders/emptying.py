"""Take the weights out of a model that is used no more."""

from __future__ import annotations

from transformers import PreTrainedModel


def empty_model(model: PreTrainedModel) -> None:
    """Make a model let go of its parameters and buffers: what nobody else refers to is freed now.

    A model refers to itself in circles: to drop it would free nothing before the next garbage collection.
    """
    model.to("meta")  # type: ignore[arg-type] # its stub knows no device alone
