"""All kernels of a device, compiled."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cuda_kernels.gpu.digest import DigestKernel
from cuda_kernels.gpu.gumbel import GumbelKernel
from cuda_kernels.gpu.numba_cuda import torch_stream
from cuda_kernels.gpu.unpack import UnpackKernels


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The kernels; they run on the device that they were compiled for."""

    digest: DigestKernel
    unpack: UnpackKernels
    gumbel: GumbelKernel


def compile_kernels(device: torch.device) -> Kernels:
    """Compile every kernel, or load what an earlier process compiled."""
    with torch_stream(device):
        return Kernels(digest=DigestKernel(), unpack=UnpackKernels(), gumbel=GumbelKernel())
