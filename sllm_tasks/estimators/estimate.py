"""A predicted time, and the interval that it is expected in."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot
from typing import Self

#: Of the things that are predicted, this share ends inside of their intervals.
COVERAGE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Seconds that something takes; in 80 of 100 cases the truth lies between `low_s` and `high_s`."""

    seconds: float
    low_s: float
    high_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.low_s <= self.seconds <= self.high_s < float("inf"):
            raise ValueError(f"not an estimate: {self}")

    @classmethod
    def exactly(cls, seconds: float) -> Self:
        """A time that is known."""
        return cls(seconds=seconds, low_s=seconds, high_s=seconds)

    def __add__(self, other: Estimate) -> Estimate:
        """One after the other; their errors are taken to be independent, so the widths add like distances do."""
        seconds = self.seconds + other.seconds
        below = hypot(self.seconds - self.low_s, other.seconds - other.low_s)
        above = hypot(self.high_s - self.seconds, other.high_s - other.seconds)
        return Estimate(seconds=seconds, low_s=seconds - below, high_s=seconds + above)

    def times(self, factor: float) -> Estimate:
        """So many times as long; the same error in each of them."""
        return Estimate(seconds=self.seconds * factor, low_s=self.low_s * factor, high_s=self.high_s * factor)

    def less(self, seconds: float) -> Estimate:
        """What is left of it after a time."""
        return Estimate(
            seconds=max(0.0, self.seconds - seconds),
            low_s=max(0.0, self.low_s - seconds),
            high_s=max(0.0, self.high_s - seconds),
        )


ZERO = Estimate.exactly(0.0)
