"""How starts came in units of what was predicted for them: corrects the interval of a sum of estimates.

The parts of a start are learned one by one, each with its interval; what holds several of them up at once (other loads
on the same cores, messages on their way) is in none of them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from functools import partial

from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.estimators.facts import StartFact
from sllm_tasks.estimators.recent_errors import RecentErrors

#: Starts that are remembered: few, since how late they are changes with what else the machine does, and a number whose
#: tenths are whole ranks (ADR 50).
_NUM_STARTS = 29


class StartTimes:
    """Learns from decisions whose job had its first token."""

    def __init__(self) -> None:
        # How far the truth was from the sum, in units of that side of the sum's interval: by path, and of all paths for
        # one that has too few of its own.
        self._of_path: defaultdict[str, RecentErrors] = defaultdict(partial(RecentErrors, _NUM_STARTS))
        self._of_all = RecentErrors(_NUM_STARTS)

    def learn(self, fact: StartFact) -> None:
        """Add a start; one whose interval has no width tells nothing."""
        total = fact.total
        late_s = fact.actual_s - total.seconds
        width_s = total.high_s - total.seconds if late_s > 0 else total.seconds - total.low_s
        if width_s > 0:
            self._of_path[fact.path].add(late_s / width_s)
            self._of_all.add(late_s / width_s)

    def corrected(self, path: str, total: Estimate) -> Estimate:
        """A sum with the interval that 80 % of earlier starts would have come in.

        Its middle stays: how late starts are changes with what else the machine does, and corrected by the last ones it
        was wrong by more in the median (three live runs, four simulated cells).
        """
        own = self._of_path[path].middle if path in self._of_path else None
        middle = own or self._of_all.middle
        if middle is None:
            return total
        low_s, high_s = _at(total, min(0.0, middle[0])), _at(total, max(0.0, middle[1]))
        if own is None:
            # Starts of other kinds tell how much else the machine does, not that this kind is surer than its parts.
            low_s, high_s = min(low_s, total.low_s), max(high_s, total.high_s)
        return replace(total, low_s=low_s, high_s=high_s)


def _at(total: Estimate, error: float) -> float:
    """The time that is so far from the sum."""
    width_s = total.high_s - total.seconds if error > 0 else total.seconds - total.low_s
    return max(0.0, total.seconds + error * width_s)
