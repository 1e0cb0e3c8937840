"""What an error of torch says about its device: that it has no memory left, or is lost to this process."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sllm_tasks.engines.base import DeviceLostError

#: The allocators of the CPU and, outside of torch's own, of CUDA and its libraries have no error class.
_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether a device had no memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in _NO_MEMORY)


def raise_if_lost(error: Exception, devices: Sequence[str]) -> None:
    """Raise DeviceLostError if a GPU does nothing more for this process.

    What goes wrong inside a kernel stays with the process's context: every later call fails with it, whatever it asks.
    """
    if not isinstance(error, torch.AcceleratorError):
        return
    for device in devices:
        if device == "cpu":
            continue
        try:
            torch.cuda.synchronize(device)
        except torch.AcceleratorError as lost:
            raise DeviceLostError(f"{device} is lost to this process: {lost}") from error
