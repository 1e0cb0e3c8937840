"""What each of several devices will hold of a checkpoint, before any of it is loaded. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from loaders.devices.parts import split_plan
from loaders.source import Source
from loaders.tensors import weights_bytes
from loaders.writer.layers import layers_of


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceShare:
    """What one device gets."""

    #: Unpacked, tied tensors counted once.
    weights_bytes: int
    #: Layers, whose keys and values will lie there as well.
    num_layers: int


def device_shares(source: Source, num_devices: int) -> tuple[DeviceShare, ...]:
    """Divide a checkpoint as a load on so many devices does, the first device's share first."""
    parts = split_plan(source.plan, [torch.device("cpu")] * num_devices, by_partition=source.is_converted)
    return tuple(
        DeviceShare(
            weights_bytes=weights_bytes(part.plan.tensors),
            num_layers=len(layers_of(part.plan.tensors)),
        )
        for part in parts
    )
