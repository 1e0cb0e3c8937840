"""Several devices played on one CPU: `cpu:0`, `cpu:1` … hold real numbers, and refuse to work with each other's.

Inside a `PlayedDevices()` block tensors made on `cpu:<i>` say that they are there, so do all that come out of them, and
an operation on tensors of two devices fails as it would on two GPUs. The mode is the thread's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CPU = torch.device("cpu")
#: Copies between devices are what torch allows.
_COPIES = {torch.Tensor.copy_, torch.Tensor.__setitem__}


class PlayedDevices(TorchFunctionMode):
    """See the module's docstring."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined] # a descriptor of C
            return played_device(args[0])
        if func in {torch.Tensor.to, torch.Tensor.cpu}:
            return _move(func, args, named)
        wanted = _take_device(named)
        result = func(*args, **named)
        if wanted is None:
            # Rows of any device may be chosen by numbers that are on the CPU; a copy is told of all other copies.
            is_alone = func == torch.Tensor.__deepcopy__ or (func == torch.Tensor.__getitem__ and _is_here(args[1]))
            together = args[:1] if is_alone else args
            devices = {played_device(tensor) for tensor in _tensors((together, named)) if tensor.dim() > 0}
            if len(devices) > 1 and func not in _COPIES:
                raise RuntimeError(f"Expected all tensors to be on the same device: {func} was given {devices}")
            wanted = played_device(args[0]) if func in _COPIES else next(iter(devices), _CPU)
        for tensor in _tensors(result):
            _put(tensor, wanted)
        return result


def played_device(tensor: torch.Tensor) -> torch.device:
    """Where a tensor says that it is."""
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), "played", _CPU) if tensor.device.type == "cpu" else tensor.device


def _is_here(value: Any) -> bool:
    return all(played_device(tensor) == _CPU for tensor in _tensors(value))


def _put(tensor: torch.Tensor, device: torch.device) -> None:
    with torch._C.DisableTorchFunction():
        if tensor.device.type == "cpu":
            tensor.untyped_storage().played = device  # type: ignore[attr-defined] # lives and dies with the memory


def _move(func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    source, *rest = args
    wanted = _CPU if func is torch.Tensor.cpu else _take_device(named)
    kept = []
    for argument in rest:
        if isinstance(argument, str | torch.device):
            wanted = torch.device(argument)
        elif isinstance(argument, torch.Tensor):
            wanted = played_device(argument)
            kept.append(argument.dtype)
        else:
            kept.append(argument)
    wanted = wanted or played_device(source)
    if wanted.type != "cpu":
        return func(*args, **named)
    named.pop("device", None)
    result = torch.Tensor.to(source, _CPU, *kept, **named)
    if result is source and wanted != played_device(source):
        result = source.clone()
    _put(result, wanted)
    return result


def _take_device(named: dict[str, Any]) -> torch.device | None:
    """Say which device a call is for, and leave the one in it that does the work: it has no number."""
    if named.get("device") is None:
        return None
    device = torch.device(named["device"])
    if device.type != "cpu":
        return None
    named["device"] = _CPU
    return device


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
