"""A load on a GPU: chunks pass through the pool, or a ring where they do not fit into it, and on to an arena."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack

import torch

from loaders.devices.arena import ImageArena
from loaders.devices.loaded import Loaded, LoadedFrom, OnTensors
from loaders.devices.pinning import pinned_ring
from loaders.devices.unpacking_arena import UnpackingArena
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
    """Copy a plan to a device; what the pool has room for stays there for the next load.

    Raises torch.OutOfMemoryError before anything is read when the device has no room.
    """
    with ExitStack() as resources:
        lease = None if pool is None else pool.lease(ContentKey(plan.key), plan.image_bytes)
        memory: ChunkMemory
        on_copied: Callable[[int], None]
        if lease is not None:
            memory, on_copied = resources.enter_context(lease), _stays
        else:
            resources.enter_context(_ring_lock)
            ring = RingMemory(pinned_ring(), CHUNK_BYTES, len(plan.chunks))
            memory, on_copied = ring, ring.release
        arena: ImageArena | UnpackingArena
        if any(tensor.packing is not None for tensor in plan.tensors.values()):
            arena = UnpackingArena(plan, device, on_copied)
        else:
            arena = ImageArena(plan, device, on_copied, verify=options.verify)
        # Copies read the chunks' memory, so that is kept until they are over, also when the load fails.
        resources.callback(arena.abandon)
        on_tensors(arena.tensors())
        done = Pipeline(plan, memory, arena, options=options, control=control).run()
        arena.finish()
        return Loaded(loaded_from=LoadedFrom.DISK if done.read_bytes else LoadedFrom.POOL, read_bytes=done.read_bytes)


def _stays(index: int) -> None:
    """A chunk of the pool stays where it is for the next load."""
    del index
