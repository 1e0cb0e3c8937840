"""How starts came in units of what was predicted for them: corrects the interval of a sum of estimates.

The parts of a start are learned one by one, each with its interval; what holds several of them up at once (other loads
on the same cores, messages on their way) is in none of them.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import replace

from sllm_tasks.estimators.estimate import Estimate, middle
from sllm_tasks.estimators.facts import StartFact

#: Errors that are remembered of each way to start; with 64 of them a coverage is known to about 5 points.
_NUM_ERRORS = 64
#: Fewer errors than this say nothing about the tenth on either side.
_MIN_ERRORS = 10


class StartTimes:
    """Learns from decisions whose job had its first token."""

    def __init__(self) -> None:
        # By path: how far the truth was from the sum, in units of that side of the sum's interval.
        self._errors: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_NUM_ERRORS))
        # The tenth of them from below and from above, as far as they leave the sum inside.
        self._outer: dict[str, tuple[float, float]] = {}

    def learn(self, fact: StartFact) -> None:
        """Add a start; one whose interval has no width tells nothing."""
        total = fact.total
        late_s = fact.actual_s - total.seconds
        width_s = total.high_s - total.seconds if late_s > 0 else total.seconds - total.low_s
        if width_s > 0:
            errors = self._errors[fact.path]
            errors.append(late_s / width_s)
            if len(errors) >= _MIN_ERRORS:
                low, high = middle(errors)
                self._outer[fact.path] = min(0.0, low), max(0.0, high)

    def corrected(self, path: str, total: Estimate) -> Estimate:
        """A sum with the interval that 80 % of earlier starts would have come in.

        Its middle stays: how late starts are changes with what else the machine does, and corrected by the last ones it
        was wrong by more in the median (three live runs, four simulated cells).
        """
        if path not in self._outer:
            return total
        low, high = self._outer[path]
        return replace(total, low_s=_at(total, low), high_s=_at(total, high))


def _at(total: Estimate, error: float) -> float:
    """The time that is so far from the sum."""
    width_s = total.high_s - total.seconds if error > 0 else total.seconds - total.low_s
    return max(0.0, total.seconds + error * width_s)
