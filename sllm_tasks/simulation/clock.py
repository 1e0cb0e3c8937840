"""Simulated time: actions in the order of their times, and of their making where those are equal."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

Action = Callable[[], object]


class Timer:
    """An action that is due at a time, unless it is cancelled."""

    __slots__ = ("action", "at_s")

    def __init__(self, at_s: float, action: Action) -> None:
        self.at_s = at_s
        self.action: Action | None = action

    def cancel(self) -> None:
        """Forget the action; harmless afterwards."""
        self.action = None


class Clock:
    """Starts at 0 s and never goes back."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._numbers = count()
        self._due: list[tuple[float, int, Timer]] = []

    def at(self, at_s: float, action: Action) -> Timer:
        """Have something done at a time; what is in the past is done next."""
        timer = Timer(max(at_s, self.now_s), action)
        heappush(self._due, (timer.at_s, next(self._numbers), timer))
        return timer

    def after(self, seconds: float, action: Action) -> Timer:
        """Have something done after a while."""
        return self.at(self.now_s + seconds, action)

    def run(self, until_s: float = float("inf")) -> None:
        """Do everything that is due until a time, or until nothing is."""
        while self._due and self._due[0][0] <= until_s:
            at_s, _, timer = heappop(self._due)
            if timer.action is not None:
                self.now_s = at_s
                timer.action()
