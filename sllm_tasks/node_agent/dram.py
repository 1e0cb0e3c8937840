"""The DRAM tier as the agent sees it: which checkpoints the node's pool has. Opened when it is first asked about."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loaders.errors import PoolBusyError, PoolError
from loaders.memory.pool import Pool
from loaders.memory.pool_folder import remove_pool
from loaders.memory.records import ContentKey
from sllm_tasks.cluster import TierUsage
from sllm_tasks.errors import ErrorCode, ModelUnusableError


@dataclass(frozen=True, slots=True, kw_only=True)
class DramReport:
    """What the pool holds."""

    #: Keys of contents that are complete; the key of a checkpoint in our own format is its digest.
    complete: frozenset[str] = frozenset()
    #: Those of them that nobody may evict.
    kept: frozenset[str] = frozenset()
    #: None for a node without a pool.
    usage: TierUsage | None = None


class DramTier:
    """A node's pool, or none. Threads share it."""

    def __init__(self, folder: Path, capacity_bytes: int) -> None:
        self.folder = folder
        self.capacity_bytes = capacity_bytes
        # Made by whoever asks first, under the lock.
        self._lock = threading.Lock()
        self._pool: Pool | None = None

    def report(self) -> DramReport:
        """Look at what is there now."""
        if not self.capacity_bytes:
            return DramReport()
        try:
            pool = self._open()
            whole = [content for content in pool.contents() if content.filled_bytes == content.num_bytes]
            usage = pool.usage
        except (PoolError, ValueError) as error:
            return DramReport(usage=TierUsage(capacity_bytes=self.capacity_bytes, used_bytes=0, error=str(error)))
        return DramReport(
            complete=frozenset(content.key for content in whole),
            kept=frozenset(content.key for content in whole if content.pinned),
            usage=TierUsage(capacity_bytes=pool.capacity_bytes, used_bytes=pool.capacity_bytes - usage.free_bytes),
        )

    def free(self, digest: str) -> bool:
        """Let a checkpoint go; False if it is in use and goes when its room is wanted. Raises ModelUnusableError."""
        if not self.capacity_bytes:
            return True
        try:
            pool = self._open()
            pool.unpin(ContentKey(digest))
            pool.free(ContentKey(digest))
        except PoolBusyError:
            return False
        except PoolError as error:
            raise ModelUnusableError(ErrorCode.INTERNAL, f"the pool: {error}") from error
        return True

    def close(self) -> None:
        """Let go of the pool; the last process that does gives its memory back to the machine."""
        with self._lock:
            if self._pool is None:
                return
            self._pool.close()
            with suppress(PoolBusyError):
                remove_pool(self.folder)

    def _open(self) -> Pool:
        with self._lock:
            if self._pool is None:
                self._pool = Pool.open(self.folder, self.capacity_bytes)
            return self._pool
