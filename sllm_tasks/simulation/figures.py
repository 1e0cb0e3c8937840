"""The numbers that the project has promised, computed from the results of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sllm_tasks.simulation.presets import PAPER_MODELS
from sllm_tasks.simulation.study import Result, Study

#: Latencies this close to the timeout say only that jobs were given up.
_AT_TIMEOUT_S = 299.0
#: Below this rate there is next to no contention, and nothing to win.
_CONTENDED_RATE_PER_S = 0.8


def figures(study: Study) -> Mapping[str, float]:
    """Ratios of latencies, larger than 1 where the second system is the faster one."""
    found: dict[str, float] = {}
    for rival in ("shepherd", "serverless"):
        ratios = {
            size: _ratio(pair[0].summary.p99_s, pair[1].summary.p99_s)
            for size in PAPER_MODELS
            for pair in _pairs(study, rival, "serverlessllm", size=size, data="gsm8k", rate_per_s=1.4)
        }
        # The paper gives one number for this data set and rate, without the size.
        if "opt-6.7b" in ratios:
            found[f"{rival}_over_paper_p99"] = ratios["opt-6.7b"]
        found |= {f"{rival}_over_paper_p99_{size}": ratio for size, ratio in ratios.items()}
    contended = [
        (theirs, ours)
        for theirs, ours in _pairs(study, "serverlessllm", "ours")
        if ours.cell.rate_per_s >= _CONTENDED_RATE_PER_S
    ]
    if contended:
        means = [over(theirs, ours, "mean_s") for theirs, ours in contended]
        p99s = [over(theirs, ours, "p99_s") for theirs, ours in contended]
        found |= {
            "paper_over_ours_mean": min(means),
            "paper_over_ours_p99": min(p99s),
            "paper_over_ours_mean_best": max(means),
            "paper_over_ours_p99_best": max(p99s),
        }
    return found


def over(theirs: Result, ours: Result, latency: str) -> float:
    """Their latency over ours; where both sit at the timeout, the share that ours finished over theirs."""
    their_s, our_s = getattr(theirs.summary, latency), getattr(ours.summary, latency)
    if their_s >= _AT_TIMEOUT_S and our_s >= _AT_TIMEOUT_S:
        return _ratio(ours.summary.finished, theirs.summary.finished)
    return _ratio(their_s, our_s)


def _pairs(study: Study, first: str, second: str, **wanted: object) -> Sequence[tuple[Result, Result]]:
    """Results of two systems in the same cells."""
    seconds = {result.cell: result for result in study.find(second, **wanted)}
    return [(result, seconds[result.cell]) for result in study.find(first, **wanted) if result.cell in seconds]


def _ratio(dividend: float, divisor: float) -> float:
    if divisor > 0:
        return dividend / divisor
    return 1.0 if dividend == 0 else float("inf")
