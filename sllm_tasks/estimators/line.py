"""A time that grows with a size: learned from the last measurements, unmoved by outliers, moved by what lasts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import median

from sllm_tasks.estimators.estimate import Estimate, middle

#: Measurements that a line is drawn through: enough for a median to be steady, few enough to follow a slow drift.
_NUM_SAMPLES = 32
#: Errors of predictions that an interval is made of; with 64 of them its coverage is known to about 5 points.
_NUM_ERRORS = 64
#: Fewer errors than this say nothing about the tenth on either side.
_MIN_ERRORS = 10
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
        self._errors: deque[float] = deque(maxlen=_NUM_ERRORS)
        self._surprises = 0
        self._line = prior
        self._factors = _NONE

    @property
    def num_samples(self) -> int:
        """Measurements that the line is drawn through."""
        return len(self._samples)

    @property
    def ratios(self) -> tuple[float, ...]:
        """The last measurements in units of what had been predicted for them, oldest first."""
        return tuple(self._errors)

    @property
    def line(self) -> Line:
        """The middle of the estimates."""
        return self._line

    def at(self, size: float) -> Estimate:
        """How long that takes."""
        seconds = self._line.at(size)
        low, high = self._factors
        return Estimate(seconds=seconds, low_s=seconds * low, high_s=seconds * high)

    def learn(self, size: float, seconds: float) -> None:
        """Add a measurement; one that is no time at all is ignored."""
        if not (isfinite(seconds) and seconds > 0 and isfinite(size) and size >= 0):
            return
        if len(self._samples) >= _MIN_SAMPLES:
            self._compare(self.at(size), seconds)
        self._samples.append((size, seconds))
        self._line = _fit(self._samples, self._prior)
        self._factors = _factors(self._errors)

    def _compare(self, predicted: Estimate, seconds: float) -> None:
        if predicted.seconds > 0:
            self._errors.append(seconds / predicted.seconds)
        side = (seconds > predicted.high_s) - (seconds < predicted.low_s)
        self._surprises = self._surprises + side if side and self._surprises * side >= 0 else side
        if abs(self._surprises) >= _NUM_SURPRISES:
            # This one and those before it are the first of a new time.
            for _ in range(len(self._samples) - _NUM_SURPRISES + 1):
                self._samples.popleft()
            self._errors.clear()
            self._surprises = 0


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


def _factors(errors: Sequence[float]) -> tuple[float, float]:
    """The interval of a line, as factors."""
    if len(errors) < _MIN_ERRORS:
        return _FEW
    low, high = middle(errors)
    return min(1.0, low), max(1.0, high)
