"""Page-locked memory, from which a GPU copies by itself."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache, partial

import torch

from loaders.errors import LoaderError
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.mapping import Mapping
from loaders.memory.pool import Cancel, Pool

#: Registered by one call: some 50 ms, after which the piece is of use.
_PIECE_BYTES = 256 << 20
#: Chunks in flight: three keep a link busy, the others let the disk run ahead.
_RING_CHUNKS = 16


def pin_pool(pool: Pool, device: str, cancel: Cancel | None = None) -> None:
    """Page-lock a prepared pool in this process, piece by piece; chunks that are not yet are copied more slowly.

    For all devices, through the driver's context on `device`: on another one it would be made, and take memory there.
    Meant for a thread in the background at the start of a worker, never for the way of a job.
    It ends before the pool is unmapped. Raises LoaderError when the driver refuses.
    """
    for begin in range(0, pool.capacity_bytes, _PIECE_BYTES):
        if cancel is not None and cancel.is_set():
            return
        address = pool.address + begin
        _register(address, min(_PIECE_BYTES, pool.capacity_bytes - begin), device)
        pool.on_unmap(partial(_unregister, address, device, os.getpid()))


@cache
def pinned_ring(device: str) -> Mapping:
    """Memory for chunks on their way to a device, and to others that are filled with it; made once, kept for good."""
    mapping = Mapping.anonymous(_RING_CHUNKS * CHUNK_BYTES)
    mapping.populate(0, mapping.num_bytes)
    # Without page-locking copies are slower, and right.
    with suppress(LoaderError):
        _register(mapping.address, mapping.num_bytes, device)
    return mapping


def _register(address: int, num_bytes: int, device: str) -> None:
    if not torch.cuda.is_available():
        raise LoaderError("there is no CUDA device to page-lock memory for")
    try:
        with torch.cuda.device(device):
            status = int(torch.cuda.cudart().cudaHostRegister(address, num_bytes, 0))
            if status != 0:
                _forget_error(device)
    except RuntimeError as error:
        # Of the driver's context, which may have to be made first.
        raise LoaderError(f"page-locking {num_bytes} bytes failed: {str(error).partition(chr(10))[0]}") from error
    if status != 0:
        raise LoaderError(f"page-locking {num_bytes} bytes failed: CUDA error {status}")


def _unregister(address: int, device: str, pid: int) -> None:
    """Tell the driver that a range ends: it would go on copying out of the old pages, whatever is mapped there next."""
    if os.getpid() != pid:
        # A fork has the addresses, and nothing of CUDA.
        return
    with torch.cuda.device(device):
        if int(torch.cuda.cudart().cudaHostUnregister(address)) != 0:
            _forget_error(device)


def _forget_error(device: str) -> None:
    """Have torch raise what CUDA remembers of a refusal: the next kernel of this thread would be blamed for it."""
    with suppress(RuntimeError):
        torch.ones(1, device=device)
