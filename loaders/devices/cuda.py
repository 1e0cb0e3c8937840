"""A load on GPUs: chunks pass through the pool, or a ring where they do not fit into it, and on to arenas."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from loaders.devices.arenas import Arenas
from loaders.devices.loaded import Loaded, LoadedFrom, OnTensors
from loaders.devices.parts import Part
from loaders.devices.pinning import pinned_ring
from loaders.errors import CheckpointCorruptError
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.pool import Pool
from loaders.memory.records import ContentKey
from loaders.memory.releasing import release
from loaders.reading.chunk_memory import ChunkMemory
from loaders.reading.pipeline import LoadControl, Pipeline, ReadOptions
from loaders.reading.plan import LoadPlan
from loaders.reading.ring_memory import RingMemory

#: The ring of a process serves one load at a time.
_ring_lock = threading.Lock()


def load_on_gpus(
    plan: LoadPlan,
    parts: Sequence[Part],
    pool: Pool | None,
    options: ReadOptions,
    control: LoadControl,
    on_tensors: OnTensors,
) -> Loaded:
    """Copy the parts of a plan to their devices; what the pool has room for stays there for the next load.

    Raises torch.OutOfMemoryError before anything is read when a device has no room.
    """
    with ExitStack() as resources:
        lease = None if pool is None else pool.lease(ContentKey(plan.key), plan.image_bytes)
        memory: ChunkMemory
        on_copied: Callable[[int], None]
        if lease is not None:
            resources.callback(release, lease)
            memory, on_copied = lease, _stays
        else:
            resources.enter_context(_ring_lock)
            ring = RingMemory(pinned_ring(str(parts[0].device)), CHUNK_BYTES, len(plan.chunks))
            memory, on_copied = ring, ring.release
        arenas = Arenas(parts, on_copied, verify=options.verify)
        # Copies read the chunks' memory, so that is kept until they are over, also when the load fails.
        resources.callback(arenas.abandon)
        pipeline = Pipeline(plan, memory, arenas, options=options, control=control)
        done = pipeline.run(lambda: on_tensors(arenas.tensors(), arenas.side_by_side))
        try:
            arenas.finish()
        except CheckpointCorruptError:
            # It may have been the pool's memory that changed: nobody else is to get it.
            memory.discard()
            raise
        return Loaded(loaded_from=LoadedFrom.DISK if done.read_bytes else LoadedFrom.POOL, read_bytes=done.read_bytes)


def _stays(index: int) -> None:
    """A chunk of the pool stays where it is for the next load."""
    del index
