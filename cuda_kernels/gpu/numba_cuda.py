"""The one door to numba.cuda: compile a kernel, hand it the memory of tensors, launch it on torch's stream.

Importing this takes seconds and raises whatever a numba that does not fit its surroundings raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import torch

if not hasattr(np, "row_stack"):
    # NumPy 2.5 has dropped the name, numba-cuda 0.30 registers a version of it, and gets no more repairs.
    np.row_stack = np.vstack

import numba.cuda

#: What kernels are written with; numba ships no types.
cuda: Any = numba.cuda
_config: Any = numba.config
#: The mode is fixed by the environment when numba is first imported.
IS_SIMULATED: Final = bool(_config.ENABLE_CUDASIM)
#: Room for reductions in shared memory; a block has at most that many threads, always a power of two.
MAX_THREADS: Final = 256
#: The simulator runs a Python thread for each of them.
THREADS: Final = 32 if IS_SIMULATED else MAX_THREADS

#: Arrays and streams of numba, and what it compiles.
Array: TypeAlias = Any
Stream: TypeAlias = Any
Compiled: TypeAlias = Any
Function = TypeVar("Function", bound=Callable[..., object])

if not IS_SIMULATED:
    # A launch for one chunk has few blocks, and that is as it should be.
    cuda.dispatcher.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A kernel as it is written, with the types it is compiled for."""

    function: Callable[..., None]
    signatures: tuple[str, ...]

    def compile(self) -> Compiled:
        """Compile for the current device, or take what an earlier process compiled: no launch has to."""
        try:
            return cuda.jit(list(self.signatures), cache=True)(self.function)
        except Exception:  # noqa: BLE001 - a compiler that does not work at all says so once more
            # No folder to keep compiled code in, no room there, or what a crash has left there: see `cuda_kernels.jit`.
            return cuda.jit(list(self.signatures))(self.function)


def device_function(function: Function) -> Function:
    """Make a function callable from kernels; it becomes a part of them."""
    compiled: Function = cuda.jit(device=True)(function)
    return compiled


def as_array(tensor: torch.Tensor, element: type[np.generic]) -> Array:
    """View a contiguous tensor's memory as an array of another type; its size is a multiple of that type's."""
    if IS_SIMULATED:
        # Wrapped, because plain arrays are copied for the launch and back: two views of one memory would clash.
        return cuda.simulator.cudadrv.devicearray.FakeCUDAArray(tensor.detach().numpy().view(element))
    return cuda.as_cuda_array(tensor.detach(), sync=False).view(element)


@contextmanager
def torch_stream(device: torch.device) -> Iterator[Stream]:
    """Make numba work where torch does: on this device, in the order of its current stream."""
    if IS_SIMULATED:
        yield 0
        return
    # numba takes the context that is current in this thread; torch's is the same, the primary one.
    with torch.cuda.device(device):
        handle = torch.cuda.current_stream(device).cuda_stream
        # 0 is the default stream, in both.
        yield cuda.external_stream(handle) if handle else 0
