"""What a load brought."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch


class LoadedFrom(StrEnum):
    """The nearest place that had the bytes."""

    POOL = "pool"
    PAGE_CACHE = "page_cache"
    DISK = "disk"
    #: Somewhere behind a URL.
    REMOTE = "remote"


#: Finds memory that is that of stored tensors, one behind the other, as bytes; None if they do not lie like that.
SideBySide = Callable[[Sequence[str]], torch.Tensor | None]
#: Gets the tensors as soon as they have their memory, long before that has its bytes.
OnTensors = Callable[[dict[str, torch.Tensor], SideBySide], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """How the bytes of a plan came."""

    loaded_from: LoadedFrom
    #: Bytes that this load read itself; less than all when others read, or had read, the rest.
    read_bytes: int
