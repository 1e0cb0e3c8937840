"""A model whose layers lie on several devices: what it computes moves to wherever the next weights are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedModel


def spread(model: PreTrainedModel, home: torch.device) -> None:
    """Make a model run whose stored tensors lie on several devices, each layer on one; inputs are expected on `home`.

    Buffers that no checkpoint stores go to the weights that they belong to, those of no layer go to `home`. A tensor
    that two devices would need stays where it is: of tied embeddings, the head's input goes to the embeddings' device.
    """
    crossing = _Crossing()
    _spread(model, home, crossing, is_layer=False)
    model.register_forward_hook(crossing.forget, always_call=True)


class _Crossing:
    """Tensors on their way to other devices during one forward pass."""

    def __init__(self) -> None:
        # Every layer is given the same mask and the same positions. The original is kept so that its id stays its own.
        self._moved: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def bring(self, value: Any, device: torch.device) -> Any:
        """Move what a module is called with, each tensor once per pass however many layers share it."""
        return _map_tensors(value, lambda tensor: self._bring(tensor, device))

    def forget(self, *_: object) -> None:
        """The pass is over."""
        self._moved.clear()

    def _bring(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        if tensor.device == device:
            return tensor
        key = (id(tensor), device)
        if key not in self._moved:
            self._moved[key] = (tensor, tensor.to(device))
        return self._moved[key][1]


def _spread(module: torch.nn.Module, home: torch.device, crossing: _Crossing, *, is_layer: bool) -> None:
    stored = {tensor.device for tensor in module.state_dict(keep_vars=True).values()}
    # A list is never called, its members are.
    if len(stored) > 1 or isinstance(module, torch.nn.ModuleList):
        _move_buffers(module, home)
        for child in module.children():
            _spread(child, home, crossing, is_layer=isinstance(module, torch.nn.ModuleList))
        return
    device = next(iter(stored), home)
    for part in module.modules():
        _move_buffers(part, device)
    if stored or any(True for _ in module.buffers()):
        _run_on(module, device, crossing, is_layer=is_layer)


def _move_buffers(module: torch.nn.Module, device: torch.device) -> None:
    """Put the buffers where their module computes that no checkpoint stores."""
    for name, buffer in list(module.named_buffers(recurse=False)):
        if name in module._non_persistent_buffers_set:  # noqa: SLF001 - torch has no public name for it
            setattr(module, name, buffer.to(device))


def _run_on(module: torch.nn.Module, device: torch.device, crossing: _Crossing, *, is_layer: bool) -> None:
    """Bring a module's inputs to its device, and, of all but layers, the outputs back to where the inputs were.

    What a layer gives goes on to the next layer. What others give meets what the model has beside it.
    """
    inner: Callable[..., Any] = module.forward

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> Any:
        came_from = _first_device((args, kwargs))
        output = inner(*crossing.bring(args, device), **crossing.bring(kwargs, device))
        if is_layer or came_from is None or came_from == device:
            return output
        return _map_tensors(output, lambda tensor: tensor.to(came_from))

    module.forward = forward


def _first_device(value: Any) -> torch.device | None:
    found: list[torch.device] = []

    def look_at(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor.device)
        return tensor

    _map_tensors(value, look_at)
    return found[0] if found else None


def _map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Change the tensors of nested tuples, lists and dicts; all else, such as a cache, stays the same object."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if type(value) in {tuple, list}:
        return type(value)(_map_tensors(item, change) for item in value)
    if type(value) is dict:
        return {name: _map_tensors(item, change) for name, item in value.items()}
    return value
