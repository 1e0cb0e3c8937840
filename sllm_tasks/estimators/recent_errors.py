"""How wrong the last predictions of one kind were, and so where the truth will lie beside the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import ceil, floor

from sllm_tasks.estimators.estimate import COVERAGE

#: What is remembered unless somebody says otherwise; with 64 errors a coverage is known to about 5 points.
_NUM_ERRORS = 64
#: Fewer errors than this say nothing about the tenth on either side.
_MIN_ERRORS = 10


class RecentErrors:
    """Errors in any unit, as long as all have the same; used by one thread."""

    def __init__(self, num_errors: int = _NUM_ERRORS) -> None:
        self._errors: deque[float] = deque(maxlen=num_errors)
        self._middle: tuple[float, float] | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """What is remembered, oldest first."""
        return tuple(self._errors)

    @property
    def middle(self) -> tuple[float, float] | None:
        """Least and largest of the middle 80 % of errors to come; None as long as too few are known."""
        return self._middle

    def add(self, error: float) -> None:
        """Remember one more; the oldest may be forgotten for it."""
        self._errors.append(error)
        if len(self._errors) >= _MIN_ERRORS:
            self._middle = _middle(self._errors)

    def clear(self) -> None:
        """Forget all of them."""
        self._errors.clear()
        self._middle = None


def _middle(errors: Iterable[float]) -> tuple[float, float]:
    """The quantiles of conformal prediction."""
    ranked, outside = sorted(errors), (1 - COVERAGE) / 2
    low = ranked[max(0, floor(outside * (len(ranked) + 1)) - 1)]
    high = ranked[min(len(ranked), ceil((1 - outside) * (len(ranked) + 1))) - 1]
    return low, high
