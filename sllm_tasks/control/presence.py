"""Which nodes have been silent for so long that their copies do not count any more; pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

#: Who looks once a second and has not for so long could hear nobody: the live state was away, or the machine slept.
_MAX_GAP: Final = timedelta(seconds=10)


class Presence:
    """Remembers when each node was alive, from one look to the next."""

    def __init__(self, lost_after: timedelta) -> None:
        self._lost_after = lost_after
        self._looked_at: datetime | None = None
        # When each node was alive; of those that were not since, the first look.
        self._alive_at: dict[str, datetime] = {}

    def lost(self, known: Iterable[str], alive: Iterable[str], now: datetime) -> frozenset[str]:
        """Look once, and name those that have been silent for long enough.

        After a time without looks, and after a step of the clock, everybody gets that time once more.
        """
        if self._looked_at is not None and not timedelta(0) <= now - self._looked_at <= _MAX_GAP:
            self._alive_at.clear()
        self._looked_at = now
        self._alive_at = dict.fromkeys(known, now) | self._alive_at | dict.fromkeys(alive, now)
        return frozenset(name for name, alive_at in self._alive_at.items() if now - alive_at > self._lost_after)
