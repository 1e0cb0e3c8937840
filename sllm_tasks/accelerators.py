"""The NVIDIA GPUs of this machine, counted without importing torch."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path


def num_present() -> int:
    """Count the GPUs that the driver knows."""
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    lines = done.stdout.decode(errors="replace").splitlines() if done.returncode == 0 else []
    return sum(line.startswith("GPU ") for line in lines)


def num_usable() -> int:
    """Count those that a process of this one would see and could use."""
    num_gpus = num_present() if torch_has_cuda() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not num_gpus:
        return num_gpus
    # The driver takes numbers and UUIDs, up to the first that is none.
    return len(list(takewhile(partial(_is_gpu, num_gpus), visible.split(","))))


def torch_has_cuda() -> bool:
    """Whether the installed torch was built with CUDA."""
    found = find_spec("torch")
    return found is not None and any(
        (Path(folder) / "lib" / "libtorch_cuda.so").exists() for folder in found.submodule_search_locations or ()
    )


def _is_gpu(num_gpus: int, name: str) -> bool:
    name = name.strip()
    return int(name) < num_gpus if name.isdecimal() else name.startswith(("GPU-", "MIG-"))
