"""Decide which tensors to pack, by counting what packing each of them would give."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cuda_kernels.packed import exponent_counts
from cuda_kernels.packed_layout import segment_bytes
from cuda_kernels.packed_reference import choose_codebook, count_patches
from loaders.errors import ConversionCanceledError
from loaders.format.packing import MAX_SEGMENTS, MAX_TOTAL_SEGMENTS, SEGMENT_ELEMENTS, Packing, num_segments
from loaders.format.tensor_index import contiguous_stride
from loaders.writer.sources import Source, SourceTensor

#: Smaller tensors (norms, biases) are too few bytes to matter, and each costs a launch on the device.
_MIN_BYTES = 64 << 10
#: Unpacking is work: it must save at least an eighth. Weights of real models come to 0.75.
_WORTHWHILE = 7 / 8


class Cancel(Protocol):
    """Says when to stop; a threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to stop."""


def measure_packings(source: Source, *, num_threads: int, cancel: Cancel | None) -> Mapping[int, Packing]:
    """Read every bfloat16 storage once and return how to pack those for which it pays."""

    def measure(storage: int) -> tuple[int, Packing | None]:
        return storage, _measure(source, storage, cancel)

    packings, segments = {}, 0
    with ThreadPoolExecutor(num_threads) as threads:
        for storage, packing in threads.map(measure, _candidates(source)):
            if packing is not None and segments + len(packing.num_patches) <= MAX_TOTAL_SEGMENTS:
                packings[storage] = packing
                segments += len(packing.num_patches)
    return packings


def _candidates(source: Source) -> list[int]:
    """Storages that are one contiguous bfloat16 tensor as a whole, under however many names."""
    whole = {tensor.storage for tensor in source.tensors if _is_whole(tensor, source.storage_bytes[tensor.storage])}
    views = Counter(
        storage
        for storage, *_ in {
            (tensor.storage, tensor.dtype, tensor.shape, tensor.stride, tensor.storage_offset)
            for tensor in source.tensors
        }
    )
    return sorted(storage for storage in whole if views[storage] == 1)


def _is_whole(tensor: SourceTensor, num_bytes: int) -> bool:
    num_elements = num_bytes // 2
    return (
        tensor.dtype == "bfloat16"
        and num_bytes >= _MIN_BYTES
        and tensor.storage_offset == 0
        and tensor.stride == contiguous_stride(tensor.shape)
        and 2 * int(np.prod(tensor.shape, dtype=object)) == num_bytes
        and num_segments(num_elements) <= MAX_SEGMENTS
    )


def _measure(source: Source, storage: int, cancel: Cancel | None) -> Packing | None:
    num_elements = source.storage_bytes[storage] // 2
    values = np.empty(min(SEGMENT_ELEMENTS, num_elements), dtype=np.uint16)
    counts: list[NDArray[np.int64]] = []
    for first in range(0, num_elements, SEGMENT_ELEMENTS):
        if cancel is not None and cancel.is_set():
            raise ConversionCanceledError("canceled while measuring what to pack")
        part = values[: num_elements - first]
        source.read(storage, 2 * first, part.data.cast("B"))
        counts.append(exponent_counts(part))
    codebook = choose_codebook(np.sum(counts, axis=0))
    packing = Packing(codebook, tuple(count_patches(segment, codebook) for segment in counts))
    packed_bytes = sum(
        segment_bytes(min(SEGMENT_ELEMENTS, num_elements - number * SEGMENT_ELEMENTS), num_patches)
        for number, num_patches in enumerate(packing.num_patches)
    )
    return packing if packed_bytes <= _WORTHWHILE * 2 * num_elements else None
