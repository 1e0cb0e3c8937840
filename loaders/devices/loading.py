"""One load: where its bytes are, which memory they go to, and the tensors at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

import torch

from loaders.devices.cpu import CpuImage
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.mapping import Mapping
from loaders.reading.chunk_memory import PrivateMemory
from loaders.reading.pipeline import LoadControl, Pipeline, ReadOptions
from loaders.reading.plan import LoadPlan


class LoadedFrom(StrEnum):
    """The nearest place that had the bytes."""

    POOL = "pool"
    PAGE_CACHE = "page_cache"
    DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """How a load went."""

    loaded_from: LoadedFrom
    num_bytes: int
    #: Bytes that this load read itself.
    read_bytes: int
    seconds: float


def load_tensors(
    plan: LoadPlan,
    device: str,
    *,
    options: ReadOptions,
    control: LoadControl,
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """Carry out a plan; see `loaders.checkpoint.load`."""
    started_s = time.monotonic()
    mapping = Mapping.anonymous(max(plan.image_bytes, 1))
    image = CpuImage(plan, mapping)
    memory = PrivateMemory(mapping, CHUNK_BYTES)
    done = Pipeline(plan, memory, image, options=options, control=control).run()
    image.finish()
    tensors = image.tensors()
    if torch.device(device).type != "cpu":
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    report = LoadReport(
        loaded_from=LoadedFrom.DISK,
        num_bytes=done.done_bytes,
        read_bytes=done.read_bytes,
        seconds=time.monotonic() - started_s,
    )
    return tensors, report
