"""Compare every kernel with its twin in torch on a few kB, before anybody relies on it."""

from __future__ import annotations

import numpy as np
import torch

from cuda_kernels import digest_torch, unpack_torch
from cuda_kernels.gpu.kernels import Kernels
from cuda_kernels.gumbel import gumbel_argmax
from cuda_kernels.packed import encode_segment, exponent_counts
from cuda_kernels.packed_reference import choose_codebook, count_patches
from cuda_kernels.segment_table import PackedSegment, SegmentTable

_NUM_ELEMENTS = 509


class KernelMismatchError(Exception):
    """A kernel computes something else than its twin."""


def check_kernels(kernels: Kernels, device: torch.device) -> None:
    """Launch every kernel and wait for it; raises KernelMismatchError."""
    results = {
        "digest": _digests_agree(kernels, device),
        "unpack": _elements_agree(kernels, device),
        "draw": _draws_agree(kernels, device),
    }
    wrong = ", ".join(name for name, agrees in results.items() if not agrees)
    if wrong:
        raise KernelMismatchError(f"what a kernel computes on {device} is wrong: {wrong}")


def _digests_agree(kernels: Kernels, device: torch.device) -> bool:
    memory = (torch.arange(1003) * 97 % 251).to(torch.uint8).to(device)
    by_kernel, by_torch = torch.zeros(2, 3, dtype=torch.int64, device=device)
    kernels.digest.launch(memory, 400, by_kernel)
    digest_torch.add_digests(memory, 400, by_torch)
    return torch.equal(by_kernel, by_torch)


def _elements_agree(kernels: Kernels, device: torch.device) -> bool:
    # Steps over all exponents, so that many of them need patches.
    values = (np.arange(_NUM_ELEMENTS) * 128).astype(np.uint16)
    counts = exponent_counts(values)
    codebook = choose_codebook(counts)
    num_patches = count_patches(counts, codebook)
    segment = PackedSegment(begin=0, num_elements=_NUM_ELEMENTS, num_patches=num_patches, codebook=codebook, output=0)
    stored = np.zeros(segment.end, dtype=np.uint8)
    encode_segment(values, codebook, num_patches, stored)
    table = SegmentTable.build([segment], device)
    memory = torch.from_numpy(stored).to(device)
    by_kernel, by_torch = torch.zeros(2, 2 * _NUM_ELEMENTS + 6, dtype=torch.uint8, device=device)
    failures = torch.zeros(1, dtype=torch.int64, device=device)
    kernels.unpack.launch(table, range(1), memory, by_kernel, failures)
    unpack_torch.unpack(table, range(1), memory, by_torch, failures)
    return torch.equal(by_kernel, by_torch) and not failures.any()


def _draws_agree(kernels: Kernels, device: torch.device) -> bool:
    logits = (torch.arange(3 * 700, dtype=torch.float64) * 0.37).sin().reshape(3, 700).to(device) * 4
    temperatures = torch.tensor([0.3, 1.0, 2.0], dtype=torch.float64, device=device)
    keys = torch.tensor([1, -(2**62), 987654321], device=device)
    return all(
        torch.equal(kernels.gumbel.launch(rows, temperatures, keys), gumbel_argmax(rows, temperatures, keys))
        for rows in (logits, logits.float())
    )
