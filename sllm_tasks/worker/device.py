"""Which device a worker owns and how much of its memory it may use."""

from __future__ import annotations

import os

import torch

from sllm_tasks.config import Settings
from sllm_tasks.errors import ConfigError

#: What is left to the CUDA context, to fragmentation and to activations.
_GPU_SHARE = 0.9
#: A CPU device is the machine's RAM, which it shares with everything else.
_CPU_SHARE = 0.5


def device_name(settings: Settings) -> str:
    """Name the device as torch does; raises ConfigError when it does not exist here."""
    name = settings.device or (f"cuda:{settings.gpu}" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not int(name.removeprefix("cuda:")) < torch.cuda.device_count():
        raise ConfigError(f"device: {name} does not exist; torch sees {torch.cuda.device_count()} CUDA devices")
    return name


def device_memory_bytes(settings: Settings, device: str) -> int:
    """Return how many bytes replicas may reserve on the device."""
    if settings.gpu_memory_bytes is not None:
        return settings.gpu_memory_bytes
    if device == "cpu":
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * _CPU_SHARE)
    return int(torch.cuda.get_device_properties(device).total_memory * _GPU_SHARE)
