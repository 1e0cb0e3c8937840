"""Words of the pool: what a content is called, what is known about it, and how full the pool is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

from loaders.memory.pages import PageKind

#: Names the bytes of one partition or file, whoever loads them; must differ when the bytes differ. Opaque to the pool.
ContentKey = NewType("ContentKey", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolShape:
    """What is fixed when a pool is made."""

    num_chunks: int
    chunk_bytes: int
    #: Path of the file whose pages are the pool's memory.
    memory: str
    page_kind: PageKind

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all chunks."""
        return self.num_chunks * self.chunk_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRecord:
    """One content of the pool."""

    key: ContentKey
    num_bytes: int
    #: Bytes that are there and checked; less than `num_bytes` while it is filled, or if whoever filled it stopped.
    filled_bytes: int
    num_leases: int
    pinned: bool
    #: When it was leased or given back last, on this machine's `time.monotonic()`.
    last_use_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUsage:
    """Whole chunks, in bytes, by what holds them; the four add up to the capacity."""

    free_bytes: int
    #: Held by contents that nobody leases or has pinned.
    evictable_bytes: int
    leased_bytes: int
    #: Held by pinned contents that nobody leases.
    pinned_bytes: int
