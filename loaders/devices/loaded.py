"""What a load brought."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch


class LoadedFrom(StrEnum):
    """The nearest place that had the bytes."""

    POOL = "pool"
    PAGE_CACHE = "page_cache"
    DISK = "disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """The tensors of a plan, and how they came."""

    tensors: dict[str, torch.Tensor]
    loaded_from: LoadedFrom
    #: Bytes that this load read itself; less than all when others read, or had read, the rest.
    read_bytes: int
