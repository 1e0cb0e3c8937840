"""What the execution files of a checkpoint say about its model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from loaders.architecture import eos_token_ids, read_config
from loaders.source import Source
from loaders.tensors import dominant_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model but for its weights."""

    config: PreTrainedConfig
    #: The type that most weights are stored in.
    dtype: torch.dtype
    #: Ids that end a text.
    eos_token_ids: frozenset[int]


def read_model_files(source: Source) -> ModelFiles | None:
    """Read them, None for tensors without a model; raises LoaderError.

    The first time in a process it takes some tenths of a second: transformers imports the code of the model.
    """
    if source.directory is None or not source.directory.has_config:
        return None
    config = read_config(source.directory)
    return ModelFiles(
        config=config,
        dtype=dominant_dtype(source.plan.tensors),
        eos_token_ids=eos_token_ids(source.directory, config),
    )
