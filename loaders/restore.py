"""Put tensors into a model of transformers, or find out that they do not fit, without reading a weight.

Both go through the public `from_pretrained(None, config=…, state_dict=…)`, which knows the renamings and conversions of
every architecture, tied weights and the buffers that no checkpoint stores. It would copy every tensor to the CPU; the
tensors handed over here stay where they are.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from re import sub
from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from loaders.architecture import model_class
from loaders.errors import CheckpointCorruptError, CheckpointMissingError, CheckpointUnsupportedError
from loaders.reading.plan import StoredTensor
from loaders.spreading import spread
from loaders.tensors import empty_tensors

#: transformers keeps what it is doing in globals: two threads that build models find tied weights missing.
_building = threading.Lock()


class _Resident(torch.Tensor):
    """A tensor that stays on its device; only its type can change."""

    def to(self, *_: Any, dtype: torch.dtype | None = None, **__: Any) -> torch.Tensor:
        return self if dtype is None else super().to(dtype=dtype)


class _NoAllocation(TorchDispatchMode):
    """Keeps the memory of missing weights from being allocated, so that a check costs none."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.ops.aten.empty_like.default:
            named["device"] = torch.device("meta")
        return func(*args, **named)


def restore(config: PreTrainedConfig, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """Build a model over `tensors` that runs where they are; raises what `build` raises."""
    return settle(build(config, tensors, dtype), tensors)


def build(config: PreTrainedConfig, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> PreTrainedModel:
    """Build a model over `tensors`, without copying those that its class takes as they are.

    Buffers that no checkpoint stores are computed, on the CPU. With tensors that have no memory it costs none.
    Raises CheckpointMissingError, CheckpointCorruptError or CheckpointUnsupportedError if they do not make the model.
    """
    model, report = _from_tensors(config, tensors, dtype)
    _check_report(report)
    _unwrap(model)
    model.requires_grad_(requires_grad=False)
    model.eval()
    return model


def settle(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """Make a model that was built over `tensors` run where they are: its other buffers follow them."""
    devices = {tensor.device for tensor in tensors.values()}
    if len(devices) == 1:
        model.to(devices.pop())  # type: ignore[arg-type] # its stub knows no device alone
    else:
        spread(model, cast("torch.nn.Embedding", model.get_input_embeddings()).weight.device)
    _check_materialised(model)
    return model


def check_tensors(config: PreTrainedConfig, stored: Mapping[str, StoredTensor], dtype: torch.dtype) -> PreTrainedModel:
    """Check names and shapes against the model class and return the model, without memory.

    Raises CheckpointMissingError or CheckpointCorruptError, naming the first tensor that is wrong, or config.json.
    """
    with _NoAllocation():  # type: ignore[no-untyped-call] # torch's constructor
        try:
            model, report = _from_tensors(config, empty_tensors(stored), dtype)
        except RuntimeError as error:
            # Some architectures store many small tensors that become one; they did not go together.
            raise CheckpointCorruptError(_odd_one_out(stored) or str(error)) from error
        except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError, AssertionError) as error:
            # Of the class's constructor: tensors are here by name and shape alone, and what they lack is in the report.
            name = model_class(config).__name__
            raise CheckpointCorruptError(f"config.json: no {name} can be made from it: {error}") from error
    _check_report(report)
    _unwrap(model)
    model.eval()
    model.to("meta")  # type: ignore[arg-type] # its stub knows no device alone
    return model


def _from_tensors(
    config: PreTrainedConfig, tensors: Mapping[str, torch.Tensor], dtype: torch.dtype
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    resident = {name: tensor.as_subclass(_Resident) for name, tensor in tensors.items()}
    with _building, _quiet():
        loaded = model_class(config).from_pretrained(
            None,
            config=config,
            state_dict=resident,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    return cast("tuple[PreTrainedModel, Mapping[str, Any]]", loaded)


def _check_report(report: Mapping[str, Any]) -> None:
    if missing := sorted(report["missing_keys"]):
        raise CheckpointMissingError(f"tensor {missing[0]} is missing ({len(missing)} in all)")
    if mismatched := sorted(report["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise CheckpointCorruptError(
            f"tensor {name} has shape {tuple(found)}, expected {tuple(expected)} ({len(mismatched)} in all)"
        )
    if errors := report["error_msgs"]:
        raise CheckpointUnsupportedError(f"transformers cannot load the tensors: {errors[0]}")


def _check_materialised(model: PreTrainedModel) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise CheckpointUnsupportedError(f"tensor {name} got no data from the checkpoint or the model class")


def _odd_one_out(stored: Mapping[str, StoredTensor]) -> str | None:
    """Find a tensor whose shape differs from that of most tensors whose names differ in numbers only."""
    families: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for name, tensor in stored.items():
        families[sub(r"\.\d+\.", ".#.", name)][name] = tensor.shape
    for shapes in families.values():
        expected = Counter(shapes.values()).most_common(1)[0][0]
        for name, shape in shapes.items():
            if shape != expected:
                return f"tensor {name} has shape {shape}, expected {expected} like its siblings"
    return None


def _unwrap(model: PreTrainedModel) -> None:
    """Replace the tensors that stayed by plain ones, which cost nothing per operation; tied ones stay tied."""
    plain: dict[torch.Tensor, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if parameter not in plain:
                plain[parameter] = torch.nn.Parameter(parameter.data.as_subclass(torch.Tensor), requires_grad=False)
            setattr(module, name, plain[parameter])
        for name, buffer in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            if isinstance(buffer, _Resident):
                setattr(module, name, buffer.as_subclass(torch.Tensor))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and reports off the worker's log; what matters is raised."""
    verbosity = transformers_logging.get_verbosity()
    bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bar:
            transformers_logging.enable_progress_bar()
