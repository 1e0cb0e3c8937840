"""Put garbage collection off while thousands of objects are made that all stay: going through them finds nothing."""

from __future__ import annotations

import gc
import threading
from types import TracebackType
from typing import Self


class _PutOff:
    """A context manager for any number of threads at once, and inside of itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_users = 0
        self._was_enabled = True

    def __enter__(self) -> Self:
        with self._lock:
            if not self._num_users:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._num_users += 1
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._num_users -= 1
            if not self._num_users and self._was_enabled:
                gc.enable()


#: `with collection_put_off:` for some tenths of a second at most, since all threads go without.
collection_put_off = _PutOff()
