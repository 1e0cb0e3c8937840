"""A load on a GPU: chunks pass through the pool, or a ring where they do not fit into it, and on to the arena."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import torch

from loaders.devices.cuda_arena import CudaArena
from loaders.devices.loaded import Loaded, LoadedFrom, OnTensors
from loaders.devices.pinning import pinned_ring
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.pool import Pool
from loaders.memory.records import ContentKey
from loaders.reading.chunk_memory import ChunkMemory
from loaders.reading.pipeline import LoadControl, Pipeline, ReadOptions
from loaders.reading.plan import LoadPlan
from loaders.reading.ring_memory import RingMemory

#: The ring of a process serves one load at a time.
_ring_lock = threading.Lock()


def load_on_gpu(
    plan: LoadPlan,
    device: torch.device,
    pool: Pool | None,
    options: ReadOptions,
    control: LoadControl,
    on_tensors: OnTensors,
) -> Loaded:
    """Copy the image of a plan to a device; what the pool has room for stays there for the next load.

    Raises torch.OutOfMemoryError before anything is read when the device has no room.
    """
    with ExitStack() as resources:
        lease = None if pool is None else pool.lease(ContentKey(plan.key), plan.image_bytes)
        memory: ChunkMemory
        if lease is not None:
            memory = resources.enter_context(lease)
            arena = CudaArena(plan, device, on_copied=lambda _: None)
        else:
            resources.enter_context(_ring_lock)
            memory = ring = RingMemory(pinned_ring(), CHUNK_BYTES, len(plan.chunks))
            arena = CudaArena(plan, device, on_copied=ring.release)
        on_tensors(arena.tensors())
        # Copies read the pool's memory, so the lease outlives them, also when the load fails.
        resources.callback(arena.finish)
        done = Pipeline(plan, memory, arena, options=options, control=control).run()
        arena.finish()
        return Loaded(loaded_from=LoadedFrom.DISK if done.read_bytes else LoadedFrom.POOL, read_bytes=done.read_bytes)
