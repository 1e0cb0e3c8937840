"""The class of a loaded model: whatever decides, besides weights and tokens, which bits come out."""

from __future__ import annotations

import torch
import transformers
from transformers import PreTrainedModel


def describe(model: PreTrainedModel) -> str:
    """Name device type, dtype, instruction set or GPU, libraries and, on a CPU, the number of threads."""
    device = model.device
    if device.type == "cpu":
        machine = f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    else:
        machine = torch.cuda.get_device_name(device)
    dtype = str(model.dtype).removeprefix("torch.")
    return f"{device.type} {dtype}, {machine}, torch {torch.__version__}, transformers {transformers.__version__}"
