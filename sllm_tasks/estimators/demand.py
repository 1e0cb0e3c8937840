"""When a model will be wanted again, judging by when it was."""

from __future__ import annotations

from bisect import insort
from itertools import pairwise
from math import exp
from statistics import fmean

#: Arrivals that are remembered of each model.
_NUM_ARRIVALS = 65


class Demand:
    """Learns from arrivals. Bursts make the past gaps a better guide than any rate: short ones cluster."""

    def __init__(self) -> None:
        self._arrivals: dict[str, list[float]] = {}

    def learn(self, model: str, at_s: float) -> None:
        """Add an arrival; they may come in any order."""
        arrivals = self._arrivals.setdefault(model, [])
        insort(arrivals, at_s)
        if len(arrivals) > _NUM_ARRIVALS:
            del arrivals[0]

    def wanted(self, model: str, within_s: float, idle_s: float) -> float:
        """Share of the gaps that, having lasted for `idle_s`, ended within the time.

        One more gap is assumed that ends at any moment alike, at the mean rate or at that of the present gap: with
        few gaps, or none as long as this one, that decides, so that the longer idle one is always the less wanted.
        """
        idle_s = max(idle_s, 0.0)
        gaps = self._gaps(model)
        longer = [gap for gap in gaps if gap > idle_s]
        ended = sum(gap <= idle_s + within_s for gap in longer)
        mean_s = max(fmean(gaps) if gaps else 0.0, idle_s, 1e-3)
        assumed = 1 - exp(-within_s / mean_s)
        return (ended + assumed) / (len(longer) + 1)

    def _gaps(self, model: str) -> list[float]:
        arrivals = self._arrivals.get(model, [])
        return [later - earlier for earlier, later in pairwise(arrivals)]
