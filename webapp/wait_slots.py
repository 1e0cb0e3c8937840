"""A limit on requests that wait: streams and long polls must not take the threads that answer everything else."""

from __future__ import annotations

import threading
from typing import Final

from webapp.errors import TooManyStreamsError

#: Threads that no waiting request may take.
_RESERVED_THREADS: Final = 32


class WaitSlots:
    """Counts waiting requests; who gets a slot must release it once."""

    def __init__(self, web_threads: int) -> None:
        # A server with few threads still gives one half of them to requests that wait.
        self._free = threading.BoundedSemaphore(max(web_threads - _RESERVED_THREADS, web_threads // 2))

    def acquire(self) -> None:
        """Take a slot; raises TooManyStreamsError at once when there is none."""
        if not self.try_acquire():
            raise TooManyStreamsError("too many clients are waiting; poll instead, or come back")

    def try_acquire(self) -> bool:
        """Take a slot unless there is none."""
        return self._free.acquire(blocking=False)

    def release(self) -> None:
        """Give a slot back."""
        self._free.release()
