"""Cluster time: the server's clock, so that one process with a wrong clock does no harm."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from redis import RedisError

from sllm_tasks.errors import UnavailableError

#: How long the offset between our monotonic clock and the server's clock is trusted.
_LIFE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class _Reading:
    #: Server time minus our monotonic time.
    offset_s: float
    #: Monotonic time at which it was made, or tried once more in vain.
    at_s: float


class ServerClock:
    """Goes by our monotonic clock between two looks at the server's; threads may share it."""

    def __init__(self, ask: Callable[[], tuple[int, int]]) -> None:
        """`ask` gets the server's time in seconds and microseconds; raises RedisError."""
        self._ask = ask
        # Held by the one that asks: nobody else waits for a server that hangs if there is a reading to go by.
        self._asking = threading.Lock()
        self._reading: _Reading | None = None

    def now_ms(self) -> int:
        """Ask the server now and then. While it is away the last known offset goes on.

        Raises UnavailableError without one.
        """
        reading = self._reading
        if reading is None or time.monotonic() - reading.at_s > _LIFE_S:
            reading = self._renewed(reading)
        return _at(reading)

    def known_ms(self) -> int | None:
        """Ask nobody: for those who may not wait. None before the first reading."""
        reading = self._reading
        return None if reading is None else _at(reading)

    def _renewed(self, before: _Reading | None) -> _Reading:
        if not self._asking.acquire(blocking=before is None) and before is not None:
            return before
        try:
            # Unless somebody else has asked while this one waited.
            if (reading := self._reading) is before or reading is None:
                reading = self._reading = self._read(before)
            return reading
        finally:
            self._asking.release()

    def _read(self, before: _Reading | None) -> _Reading:
        asked_s = time.monotonic()
        try:
            seconds, micros = self._ask()
        except RedisError as error:
            if before is None:
                raise UnavailableError(f"the live state does not tell the time: {error}") from error
            return _Reading(before.offset_s, time.monotonic())
        answered_s = time.monotonic()
        # Halfway between question and answer, as far as anybody can tell.
        return _Reading(seconds + micros / 1e6 - (asked_s + answered_s) / 2, answered_s)


def _at(reading: _Reading) -> int:
    return int((reading.offset_s + time.monotonic()) * 1000)
