"""Fetch what the copies on the SSD lack of a remote checkpoint."""

from __future__ import annotations

from dataclasses import replace

from loaders.format.geometry import CHUNK_BYTES
from loaders.reading.chunk_memory import allocate
from loaders.reading.pipeline import LoadControl, Pipeline
from loaders.reading.ring_memory import RingMemory
from loaders.remote.source import RemoteSource

#: A chunk that was kept is free again within milliseconds.
_SPARE_CHUNKS = 2


def fill_copies(remote: RemoteSource, num_connections: int, control: LoadControl) -> None:
    """Read every chunk that has not passed by yet; reading keeps it. Holds a chunk for each connection, and two."""
    plan = remote.source.plan
    plan = replace(plan, chunks=tuple(chunk for chunk in plan.chunks if not remote.is_kept(chunk)))
    if not plan.chunks:
        return
    options = remote.read_options(min(num_connections, len(plan.chunks)))
    mapping = allocate((options.num_threads + _SPARE_CHUNKS) * CHUNK_BYTES)
    ring = RingMemory(mapping, CHUNK_BYTES, len(plan.chunks))
    try:
        Pipeline(plan, ring, _Passing(ring), options=options, control=control).run()
    finally:
        mapping.close()


class _Passing:
    """Takes chunks that have been kept already."""

    def __init__(self, ring: RingMemory) -> None:
        self._ring = ring

    def accept(self, index: int, memory: memoryview) -> None:
        """Let the memory be used again."""
        del memory
        self._ring.release(index)

    def poll(self) -> None:
        """Nothing is under way."""
