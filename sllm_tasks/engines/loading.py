"""From a checkpoint to a model in an engine: what can go wrong on the way, in the words of the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from loaders import checkpoint
from loaders.architecture import max_context
from loaders.decodable import check_decodable
from loaders.emptying import empty_model
from loaders.errors import (
    CheckpointCorruptError,
    CheckpointMissingError,
    CheckpointUnsupportedError,
    ContentDiscardedError,
    LoadCanceledError,
    LoaderError,
    RemoteError,
    RemoteUnavailableError,
    TokenizerMissingError,
)
from sllm_tasks.engines.base import CheckpointLoader, DeviceLostError, EngineLimits
from sllm_tasks.engines.device_errors import is_out_of_memory, raise_if_lost
from sllm_tasks.engines.fixed_rope import fix_rope
from sllm_tasks.errors import ErrorCode, ModelUnusableError, OutOfMemoryError, StaleError

_ERROR_CODES: dict[type[LoaderError], ErrorCode] = {
    CheckpointMissingError: ErrorCode.CHECKPOINT_MISSING,
    CheckpointCorruptError: ErrorCode.CHECKPOINT_CORRUPT,
    CheckpointUnsupportedError: ErrorCode.CHECKPOINT_UNSUPPORTED,
    TokenizerMissingError: ErrorCode.TOKENIZER_MISSING,
    RemoteError: ErrorCode.UNAVAILABLE,
}

#: What the code of models raises for inputs or devices that it was not made for; torch's own errors are RuntimeErrors.
MODEL_ERRORS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)

_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with its weights, and what an engine has to know of it besides."""

    model: PreTrainedModel
    eos_token_ids: frozenset[int]
    #: Equal for equal weights.
    content_key: str


def load_model(
    path: Path,
    devices: tuple[str, ...],
    limits: EngineLimits,
    load: CheckpointLoader | None,
    make: Callable[[LoadedModel, EngineLimits], _Made],
) -> _Made:
    """Load a checkpoint and `make` something of the model and its limits.

    Raises ModelUnusableError, OutOfMemoryError, StaleError or DeviceLostError, and keeps nothing then.
    """
    load = load or partial(checkpoint.load, device=devices)
    try:
        return _load_model(path, devices, limits, load, make)
    except DeviceLostError:
        raise
    except BaseException as error:
        _give_back(error)
        raise


def _load_model(
    path: Path,
    devices: tuple[str, ...],
    limits: EngineLimits,
    load: CheckpointLoader,
    make: Callable[[LoadedModel, EngineLimits], _Made],
) -> _Made:
    try:
        with loader_errors(), load(path, with_model=True) as loaded, _emptied_on_error(loaded.model()) as model:
            _check_context(model, limits)
            check_decodable(model)
            fix_rope(model, limits.context)
            eos_token_ids, content_key = loaded.model_files.eos_token_ids, loaded.content_key
            return make(LoadedModel(model=model, eos_token_ids=eos_token_ids, content_key=content_key), limits)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(f"{path} does not fit on {', '.join(devices)}: {error}") from error
        raise_if_lost(error, devices)
        raise


@contextmanager
def loader_errors() -> Iterator[None]:
    """Raise ModelUnusableError in place of a LoaderError, or StaleError for what may go well another time."""
    try:
        yield
    except (ContentDiscardedError, LoadCanceledError, RemoteUnavailableError) as error:
        raise StaleError(str(error)) from error
    except LoaderError as error:
        raise ModelUnusableError(_ERROR_CODES.get(type(error), ErrorCode.INTERNAL), str(error)) from error


def _give_back(error: BaseException | None) -> None:
    """Free what a load held when it failed: its frames hold it for as long as anybody keeps the error."""
    while error is not None:
        clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__
    release_memory()


def release_memory() -> None:
    """Give what torch keeps for later back to the gpus."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def _emptied_on_error(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    try:
        yield model
    except BaseException:
        empty_model(model)
        raise


def _check_context(model: PreTrainedModel, limits: EngineLimits) -> None:
    if limits.context > max_context(model.config):
        raise ModelUnusableError(
            ErrorCode.CONTEXT_LENGTH_EXCEEDED,
            f"a context of {limits.context} was asked for, the model has positions for {max_context(model.config)}",
        )
