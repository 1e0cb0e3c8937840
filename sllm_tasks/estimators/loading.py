"""Loading times by node and tier."""

from __future__ import annotations

from sllm_tasks.cluster import Tier
from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.estimators.facts import LoadFact
from sllm_tasks.estimators.line import LearnedLine, Line
from sllm_tasks.estimators.recent_errors import RecentErrors

#: What is assumed before anything was measured anywhere: one NVMe drive, a network of 10 Gbit/s, PCIe 4.0. The start
#: is what the demo model took to begin and to end a load.
_PRIORS = {
    Tier.REMOTE: Line(0.2, 1 / 1.0e9),
    Tier.SSD: Line(0.1, 1 / 2.5e9),
    Tier.DRAM: Line(0.05, 1 / 12.0e9),
}


class LoadTimes:
    """Learns from loads to gpus; where there were none, from what moved bytes without one: calibration, prefetches."""

    def __init__(self) -> None:
        self._to_gpu: dict[tuple[str, Tier], LearnedLine] = {}
        self._of_tier: dict[tuple[str, Tier], LearnedLine] = {}
        # All nodes together, for a node that has loaded nothing yet.
        self._anywhere = {tier: LearnedLine(prior) for tier, prior in _PRIORS.items()}
        # Of all nodes and tiers, for lines that have too few of their own.
        self._errors = RecentErrors()

    def learn(self, fact: LoadFact) -> None:
        """Add a measurement; a tier that nothing is loaded from is ignored."""
        if fact.tier not in _PRIORS or fact.num_bytes <= 0:
            return
        key, size = (fact.node, fact.tier), fact.num_bytes + fact.queued_bytes
        lines = self._to_gpu if fact.to_gpu else self._of_tier
        if key not in lines:
            lines[key] = LearnedLine(_PRIORS[fact.tier])
        ratio = lines[key].learn(size, fact.seconds)
        if fact.to_gpu:
            self._anywhere[fact.tier].learn(size, fact.seconds)
            if ratio is not None:
                self._errors.add(ratio)

    def estimate(self, node: str, tier: Tier, num_bytes: int, queued_bytes: int) -> Estimate:
        """`q + n/b + start`: what waits before it passes the same tier at the same rate."""
        key, size = (node, tier), num_bytes + queued_bytes
        if key in self._to_gpu:
            return self._to_gpu[key].at(size, self._errors)
        line = self._of_tier[key] if key in self._of_tier else self._anywhere[tier]
        return line.at(size)

    def ratios(self) -> tuple[float, ...]:
        """The last loads to gpus in units of what had been predicted for them, on all nodes and from all tiers."""
        return self._errors.values
