"""A time that grows with a size: learned from the last measurements, unmoved by outliers, moved by what lasts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.estimators.recent_errors import RecentErrors

#: Measurements that a line is drawn through: enough for a median to be steady, few enough to follow a slow drift.
_NUM_SAMPLES = 32
#: Fewer samples than this make predictions whose errors are not those of later ones.
_MIN_SAMPLES = 4
#: So many in a row outside of the interval on the same side are no outliers (one in 100,000 sequences by chance): the
#: disk is another one, or somebody else uses it.
_NUM_SURPRISES = 5
#: Sizes this close together tell nothing about the slope between them.
_TELLING_RATIO = 1.25
#: Interval of a line without a history of errors, as factors: of a few measurements, and of none.
_FEW, _NONE = (0.5, 2.0), (0.25, 4.0)


@dataclass(frozen=True, slots=True)
class Line:
    """`start_s + size * per_unit_s`."""

    start_s: float
    per_unit_s: float

    def at(self, size: float) -> float:
        """The time of a size."""
        return self.start_s + size * self.per_unit_s


class LearnedLine:
    """Starts from a guess (`prior`), which the first measurement replaces; used by one thread."""

    def __init__(self, prior: Line) -> None:
        self._prior = prior
        self._samples: deque[tuple[float, float]] = deque(maxlen=_NUM_SAMPLES)
        # What the truth was in units of what was predicted before it was known.
        self._errors = RecentErrors()
        self._surprises = 0
        self._line = prior

    @property
    def line(self) -> Line:
        """The middle of the estimates."""
        return self._line

    def at(self, size: float, others: RecentErrors | None = None) -> Estimate:
        """How long that takes; `others` are errors of lines like this one, for as long as it has too few of its own."""
        seconds = self._line.at(size)
        low, high = self._factors(others)
        return Estimate(seconds=seconds, low_s=seconds * min(1.0, low), high_s=seconds * max(1.0, high))

    def learn(self, size: float, seconds: float) -> float | None:
        """Add a measurement and return it in units of what had been predicted; None if too little was known for that.

        One that is no time at all is ignored.
        """
        if not (isfinite(seconds) and seconds > 0 and isfinite(size) and size >= 0):
            return None
        ratio = self._compare(self.at(size), seconds) if len(self._samples) >= _MIN_SAMPLES else None
        self._samples.append((size, seconds))
        self._line = _fit(self._samples, self._prior)
        return ratio

    def _factors(self, others: RecentErrors | None) -> tuple[float, float]:
        if not self._samples:
            return _NONE
        if len(self._samples) < _MIN_SAMPLES:
            return _FEW
        return self._errors.middle or (others and others.middle) or _FEW

    def _compare(self, predicted: Estimate, seconds: float) -> float | None:
        ratio = seconds / predicted.seconds if predicted.seconds > 0 else None
        if ratio is not None:
            self._errors.add(ratio)
        side = (seconds > predicted.high_s) - (seconds < predicted.low_s)
        self._surprises = self._surprises + side if side and self._surprises * side >= 0 else side
        if abs(self._surprises) >= _NUM_SURPRISES:
            # This one and those before it are the first of a new time.
            for _ in range(len(self._samples) - _NUM_SURPRISES + 1):
                self._samples.popleft()
            self._errors.clear()
            self._surprises = 0
        return ratio


def _fit(samples: Sequence[tuple[float, float]], prior: Line) -> Line:
    """Draw a line by the median of slopes, each of a small sample and a large one: one in seven may be nonsense.

    Pairing halves costs a tenth of all pairs (Theil-Sen) and is as steady, since pairs of like sizes tell least. Where
    all sizes are about the same only their sum is known; then the prior tells how much of it is the start.
    """
    ranked = sorted(samples)
    half = len(ranked) // 2
    slopes = [
        (large_s - small_s) / (large - small)
        for (small, small_s), (large, large_s) in zip(ranked[:half], ranked[len(ranked) - half :], strict=True)
        if large > small and large >= _TELLING_RATIO * small
    ]
    if len(slopes) >= _MIN_SAMPLES and (slope := median(slopes)) > 0:
        start_s = median(seconds - slope * size for size, seconds in samples)
        if start_s >= 0:
            return Line(start_s, slope)
    return _scaled(prior, samples)


def _scaled(prior: Line, samples: Sequence[tuple[float, float]]) -> Line:
    """Scale the prior to what was measured, start and slope alike."""
    factor = median(seconds / prior.at(size) for size, seconds in samples)
    return Line(prior.start_s * factor, prior.per_unit_s * factor)
