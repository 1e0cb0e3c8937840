"""How long models go without jobs, and what that says about the next one."""

from __future__ import annotations

from collections import defaultdict, deque
from math import exp
from statistics import fmean

#: Shorter gaps are within a burst: no replica goes in one, and they would push those that matter out of the memory.
_SHORTEST_S = 1.0
#: Gaps that are remembered of each model.
_NUM_GAPS = 64


class QuietTimes:
    """Learns from arrivals in their order; one that comes late, with a time before the last, tells nothing."""

    def __init__(self) -> None:
        self._last_s: dict[str, float] = {}
        self._gaps: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_NUM_GAPS))

    def learn(self, model: str, at_s: float) -> None:
        """Add an arrival."""
        last_s = self._last_s.get(model, at_s)
        if at_s - last_s >= _SHORTEST_S:
            self._gaps[model].append(at_s - last_s)
        self._last_s[model] = max(last_s, at_s)

    def quiet_s(self, model: str, now_s: float) -> float | None:
        """Time since the last job, None if there was none."""
        last_s = self._last_s.get(model)
        return None if last_s is None else max(0.0, now_s - last_s)

    def hit_rate(self, model: str, quiet_s: float, within_s: float) -> float:
        """Jobs per second of waiting for one, if one waits for the best time up to `within_s` and gives up then.

        Among the gaps that lasted for `quiet_s` one more is assumed that ends at any moment alike, at the mean rate of
        the others or at that of the present gap: with few gaps, or none as long as this one, that decides.
        """
        gaps = self._gaps.get(model, ())
        # Replicas are looked at once a second: a wait is never shorter.
        rests = sorted(max(gap - quiet_s, _SHORTEST_S) for gap in gaps if gap > quiet_s)
        mean_s = max(fmean(rests or gaps or (0.0,)), quiet_s, _SHORTEST_S)
        best, waited_s = 1 / mean_s, 0.0
        for number, rest_s in enumerate(rests, start=1):
            if rest_s > within_s:
                break
            waited_s += rest_s
            assumed = 1 - exp(-rest_s / mean_s)
            lasting_s = waited_s + (len(rests) - number) * rest_s
            best = max(best, (number + assumed) / (lasting_s + mean_s * assumed))
        return best
