"""What was found out once in a process and would come out the same again: bounded, and shared by its threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_Found = TypeVar("_Found")


class Memo(Generic[_Found]):
    """By key; of too many, those that were not asked for longest are forgotten."""

    def __init__(self, max_keys: int) -> None:
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._by_key: OrderedDict[Hashable, _Found] = OrderedDict()

    def find(self, key: Hashable, find_out: Callable[[], _Found]) -> _Found:
        """Tell what is known, or find it out; what that raises is raised, and nothing is known then."""
        with self._lock:
            if key in self._by_key:
                self._by_key.move_to_end(key)
                return self._by_key[key]
        found = find_out()
        with self._lock:
            self._by_key[key] = found
            self._by_key.move_to_end(key)
            if len(self._by_key) > self._max_keys:
                self._by_key.popitem(last=False)
        return found
