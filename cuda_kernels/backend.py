"""Who does the numeric work on a device: kernels of numba.cuda where they can be had, else their twins in torch.

Nothing that is missing or broken in numba, its compiler or the driver's interface fails a load: torch takes over.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from cuda_kernels.gpu.kernels import Kernels

logger = logging.getLogger(__name__)


class Backend(StrEnum):
    """What runs the kernels of a device."""

    #: Compiled, on a GPU.
    NUMBA_CUDA = "numba_cuda"
    #: Kernels as Python, thread by thread, on a CPU: to test them.
    SIMULATOR = "simulator"
    #: Their twins in torch.
    TORCH = "torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """What a device has."""

    backend: Backend
    #: What went wrong, where a GPU has to do without kernels; else empty.
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    support: Support
    kernels: Kernels | None


_WITHOUT = _Found(support=Support(backend=Backend.TORCH), kernels=None)

#: What was found, by device; written under the lock, which is held while kernels are compiled: others wait for them.
_found: dict[torch.device, _Found] = {}
_lock = threading.Lock()


def warm_up(device: torch.device) -> Support:
    """Compile and try every kernel of a device, so that no load has to wait for that; takes seconds the first time."""
    return _find(device).support


def kernels_for(device: torch.device) -> Kernels | None:
    """Kernels of a device, compiled unless they are already; None where torch does their work."""
    return _find(device).kernels


def _find(device: torch.device) -> _Found:
    # numba reads this name too, when it is imported: asking it would import it where nobody needs it.
    if device.type != "cuda" and os.environ.get("NUMBA_ENABLE_CUDASIM", "0") == "0":
        return _WITHOUT
    if str(device) == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    found = _found.get(device)
    if found is not None:
        return found
    with _lock:
        if device not in _found:
            _found[device] = _make(device)
        return _found[device]


def _make(device: torch.device) -> _Found:
    try:
        from cuda_kernels.gpu.kernels import compile_kernels  # noqa: PLC0415 - imports numba, if there is one
        from cuda_kernels.gpu.self_check import check_kernels  # noqa: PLC0415

        kernels = compile_kernels(device)
        check_kernels(kernels, device)
    except Exception as error:
        # Compilers, linkers and drivers fail in ways of their own, and none of them may fail a load.
        logger.warning("%s: kernels cannot be used, torch does their work", device, exc_info=True)
        return _Found(support=Support(backend=Backend.TORCH, reason=f"{type(error).__name__}: {error}"), kernels=None)
    backend = Backend.NUMBA_CUDA if device.type == "cuda" else Backend.SIMULATOR
    return _Found(support=Support(backend=backend), kernels=kernels)
