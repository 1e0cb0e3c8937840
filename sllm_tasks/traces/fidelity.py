"""Whether a generated trace is what its recipe promised: rate, burstiness, dispersion, lengths, popularity."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from sllm_tasks.traces.arrivals import expected_cv
from sllm_tasks.traces.generate import Recipe, arrivals, model_arrivals, popularity
from sllm_tasks.traces.lengths import Floats, LengthShape, lengths_of
from sllm_tasks.traces.records import Trace

#: Windows in which arrivals are counted for the index of dispersion, in seconds.
_WINDOWS_S = (10.0, 60.0)
#: Models with the largest shares whose sum is compared.
_TOP_MODELS = (1, 5)
#: Other draws of the same recipe that say what dispersion it stands for.
_NUM_SIBLINGS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One property: what the recipe stands for, what the trace has, and how far apart they may be."""

    name: str
    wanted: float
    measured: float
    #: Of `wanted`, or absolute where that is a share already.
    tolerance: float
    is_relative: bool = True

    @property
    def holds(self) -> bool:
        """Whether the trace is close enough."""
        allowed = self.tolerance * abs(self.wanted) if self.is_relative else self.tolerance
        return abs(self.measured - self.wanted) <= allowed + 1e-12


def check_fidelity(recipe: Recipe, trace: Trace) -> tuple[Check, ...]:
    """Compare a trace with its recipe; short bursty traces may miss dispersion by chance, long ones may not."""
    data = lengths_of(recipe.lengths)
    times_s = np.array([request.arrival_s for request in trace.requests])
    inputs = np.array([request.input_tokens for request in trace.requests], dtype=np.float64)
    outputs = np.array([request.output_tokens for request in trace.requests], dtype=np.float64)
    checks = [
        Check(name="rate per s", wanted=recipe.rate_per_s, measured=trace.rate_per_s, tolerance=0.02),
        Check(
            name="gap cv",
            wanted=_wanted_cv(recipe),
            measured=gap_cv(trace, per_model=not recipe.mixed_bursts),
            tolerance=0.10,
        ),
    ]
    checks += [
        Check(
            name=f"dispersion in {window_s:g} s",
            wanted=_usual_dispersion(recipe, window_s),
            measured=dispersion(times_s, trace.duration_s, window_s),
            tolerance=0.20,
        )
        for window_s in _WINDOWS_S
    ]
    checks += [
        Check(name="input length KS", wanted=0.0, measured=ks(inputs, data.input), tolerance=0.03, is_relative=False),
        Check(
            name="output length KS", wanted=0.0, measured=ks(outputs, data.output), tolerance=0.03, is_relative=False
        ),
    ]
    shares = popularity(len(recipe.models), recipe.zipf)
    checks += [
        Check(
            name=f"share of top {top}",
            wanted=float(shares[:top].sum()),
            measured=_top_share(trace, top),
            tolerance=0.02,
            is_relative=False,
        )
        for top in _TOP_MODELS
    ]
    return tuple(checks)


def gap_cv(trace: Trace, *, per_model: bool = True) -> float:
    """The coefficient of variation of the gaps of each model, over all models by their number of gaps; or of all."""
    squares, num_gaps = 0.0, 0
    everything = {"": np.array([request.arrival_s for request in trace.requests])}
    for times_s in (_by_model(trace) if per_model else everything).values():
        gaps = np.diff(times_s, prepend=0.0, append=trace.duration_s)
        squares += len(gaps) * float((gaps.std() / gaps.mean()) ** 2)
        num_gaps += len(gaps)
    return math.sqrt(squares / num_gaps) if num_gaps else 0.0


def dispersion(times_s: Floats, duration_s: float, window_s: float) -> float:
    """Variance over mean of the number of arrivals in a window; 1 for Poisson."""
    edges = np.arange(0.0, duration_s + window_s, window_s)
    counts, _ = np.histogram(times_s, bins=edges)
    return float(counts.var() / counts.mean()) if counts.any() else 0.0


def ks(lengths: Floats, shape: LengthShape) -> float:
    """The largest distance between the shares of lengths found and those that the shape has."""
    values, counts = np.unique(lengths, return_counts=True)
    found = np.cumsum(counts) / max(len(lengths), 1)
    return float(np.abs(found - shape.share_below(values)).max(initial=0.0))


def _wanted_cv(recipe: Recipe) -> float:
    if recipe.mixed_bursts:
        return expected_cv(round(recipe.num_expected), recipe.cv or 0.0)
    models = [model for model in model_arrivals(recipe) if model.num_requests]
    squares = sum((model.num_requests + 1) * model.expected_cv**2 for model in models)
    return math.sqrt(squares / sum(model.num_requests + 1 for model in models))


def _usual_dispersion(recipe: Recipe, window_s: float) -> float:
    siblings = [replace(recipe, seed=recipe.seed + 1 + number) for number in range(_NUM_SIBLINGS)]
    return float(np.mean([dispersion(arrivals(sibling)[0], recipe.duration_s, window_s) for sibling in siblings]))


def _top_share(trace: Trace, top: int) -> float:
    counts = Counter(request.model for request in trace.requests)
    return sum(count for _, count in counts.most_common(top)) / max(len(trace.requests), 1)


def _by_model(trace: Trace) -> dict[str, Floats]:
    by_model: dict[str, list[float]] = {}
    for request in trace.requests:
        by_model.setdefault(request.model, []).append(request.arrival_s)
    return {model: np.array(times_s) for model, times_s in by_model.items()}
