"""Room on a node's SSD: set aside before a byte is written, so that what cannot fit is refused with the numbers."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sllm_tasks.cluster import TierUsage
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.node_agent.apart.process import WorkCanceledError
from sllm_tasks.node_agent.store import CheckpointStore, disk_bytes

logger = logging.getLogger(__name__)

#: A disk that is full to the last byte is slow, and other things have to work as well.
_LEFT_FREE = 0.05
#: What an import left behind is kept for as long as somebody may ask for it again.
_KEEP_UNFINISHED_S = 86_400.0
#: How soon somebody who waits for a name hears that it need not.
_LOOK_S = 0.2


class Room:
    """A share of the room, for one piece of work under one name in the store's work folder."""

    def __init__(self, keeper: RoomKeeper, name: str) -> None:
        self._keeper = keeper
        self.name = name

    def grant(self, num_bytes: int) -> None:
        """Set that many bytes aside; raises ModelUnusableError (DISK_FULL) where there is less."""
        self._keeper.grant(self.name, num_bytes)


class RoomKeeper:
    """Knows what is on the SSD and what was promised to work that goes on. Threads share it."""

    def __init__(self, store: CheckpointStore, limit_bytes: int | None) -> None:
        self._store = store
        self._limit_bytes = limit_bytes
        # Held by who clears away, for as long as that takes: nobody else is to take what is not free yet for missing.
        # The heartbeat, which must not wait, takes the other lock alone.
        self._clearing = threading.Lock()
        # Names that somebody works on; bytes set aside for each. Under the lock.
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._working: set[str] = set()
        self._granted: dict[str, int] = {}

    @contextmanager
    def working(self, name: str, is_canceled: Callable[[], bool] = lambda: False) -> Iterator[Room]:
        """Keep what grows under a name from being cleared away, and give back at the end what was set aside for it.

        One at a time works under a name, until what has grown there is taken away: of two, the later one would find
        the finished work of the other and remove it. Raises WorkCanceledError to whoever waits and need not any more.
        """
        with self._lock:
            while name in self._working:
                if is_canceled():
                    raise WorkCanceledError("stopped: it is not wanted any more")
                self._left.wait(_LOOK_S)
            self._working.add(name)
        try:
            yield Room(self, name)
        finally:
            with self._lock:
                self._working.discard(name)
                self._granted.pop(name, None)
                self._left.notify_all()

    def grant(self, name: str, num_bytes: int) -> None:
        """Set room aside for a name; what nobody works on makes way first. Raises ModelUnusableError."""
        with self._clearing:
            while (doomed := self._grant_or_doom(name, num_bytes)) is not None:
                self._store.clear(doomed)

    def _grant_or_doom(self, name: str, num_bytes: int) -> Path | None:
        """Set room aside and return None, or choose what has to be cleared away before; raises ModelUnusableError."""
        with self._lock:
            others = sum(granted for other, granted in self._granted.items() if other != name)
            needed_bytes = self._published_bytes() + others + num_bytes
            capacity_bytes = self._capacity_bytes()
            idle = self._idle()
            if idle and needed_bytes + sum(map(disk_bytes, idle)) > capacity_bytes:
                for path in idle:
                    if (doomed := self._store.doom(path)) is not None:
                        logger.warning("%s makes way on the SSD", path.name)
                        return doomed
            if needed_bytes > capacity_bytes:
                free_bytes = max(0, capacity_bytes - needed_bytes + num_bytes)
                message = (
                    f"the checkpoint needs {num_bytes} bytes on the SSD, {free_bytes} of {capacity_bytes} are free"
                )
                raise ModelUnusableError(ErrorCode.DISK_FULL, message)
            self._granted[name] = max(num_bytes, self._granted.get(name, 0))
            return None

    def forget_old(self) -> None:
        """Clear away what nobody has gone on with for a day."""
        with self._clearing:
            with self._lock:
                old = [path for path in self._idle() if time.time() - path.stat().st_mtime > _KEEP_UNFINISHED_S]
                doomed = [self._store.doom(path) for path in old]
            for path in filter(None, doomed):
                self._store.clear(path)

    def usage(self) -> TierUsage:
        """How full the SSD is; raises OSError where it does not answer."""
        with self._lock:
            used_bytes = self._published_bytes() + self._unpublished_bytes()
            return TierUsage(capacity_bytes=self._capacity_bytes(), used_bytes=used_bytes)

    def _published_bytes(self) -> int:
        return sum(map(self._store.num_bytes, self._store.digests()))

    def _unpublished_bytes(self) -> int:
        return sum(map(disk_bytes, self._store.aside()))

    def _idle(self) -> list[Path]:
        """What may go: damaged copies, then unfinished ones that nobody works on."""
        return [path for path in self._store.aside() if self._store.work_name(path) not in self._working]

    def _capacity_bytes(self) -> int:
        """What checkpoints may take in all: what is free and what they have, and no more than the setting says."""
        status = os.statvfs(self._store.root)
        total_bytes, free_bytes = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
        left_bytes = int(total_bytes * _LEFT_FREE)
        on_disk = max(0, free_bytes - left_bytes) + self._published_bytes() + self._unpublished_bytes()
        return on_disk if self._limit_bytes is None else min(on_disk, self._limit_bytes)
