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
        self._limit = max(web_threads - _RESERVED_THREADS, web_threads // 2)
        # Guards the number.
        self._lock = threading.Lock()
        self._num_taken = 0

    @property
    def num_taken(self) -> int:
        """Requests that wait now."""
        return self._num_taken

    def acquire(self) -> None:
        """Take a slot; raises TooManyStreamsError at once when there is none."""
        if not self.try_acquire():
            raise TooManyStreamsError("too many clients are waiting; poll instead, or come back")

    def try_acquire(self) -> bool:
        """Take a slot unless there is none."""
        with self._lock:
            is_free = self._num_taken < self._limit
            self._num_taken += is_free
        return is_free

    def release(self) -> None:
        """Give a slot back."""
        with self._lock:
            self._num_taken -= 1
