"""A trace from a recipe: seeded, and the same for the same recipe on every machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sllm_tasks.errors import TraceError
from sllm_tasks.traces.arrivals import expected_cv, intensity, renewal, sojourns, warp
from sllm_tasks.traces.lengths import Floats, lengths_of
from sllm_tasks.traces.records import Trace, TraceRequest

#: Of applications in Azure Functions 2019 that no timer starts: a share that comes like clockwork, and the lognormal of
#: the coefficients of variation of the others.
_CLOCKWORK_SHARE: Final = 0.11
_CV_LOG_MEAN: Final = 0.56
_CV_LOG_SIGMA: Final = 1.2
_MAX_CV: Final = 15.0
#: Of mixed bursts, unless given: the paper's.
_MIXED_CV: Final = 8.0
#: What fits in memory with room to spare, and what the Gamma distribution can be asked for.
_MAX_REQUESTS: Final = 10_000_000
_MAX_DURATION_S: Final = 366 * 86_400.0
_CV_RANGE: Final = (0.001, 1_000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything a generated trace depends on."""

    name: str
    seed: int
    duration_s: float
    #: Of all models together.
    rate_per_s: float
    models: tuple[str, ...]
    #: A data set of `lengths`.
    lengths: str
    #: Of the gaps between requests of one model; None draws one per model as in Azure Functions.
    cv: float | None = 8.0
    #: Exponent of the popularity of models.
    zipf: float = 0.9
    #: How far the rate of a day swings around its mean.
    swing: float = 0.0
    #: Share of time in which a model has users at all.
    active_share: float = 1.0
    #: How long it has users, on average.
    sojourn_s: float = 1_800.0
    #: Models that have and lose their users together.
    group_size: int = 1
    #: Bursts are of the whole cluster, each request of a model by popularity: the gaps of all requests together have
    #: the cv then, and those of one model nearly that of a Poisson process with the cluster's bursts.
    mixed_bursts: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.duration_s <= _MAX_DURATION_S:
            raise TraceError(f"duration_s is a positive number up to that of a year, not {self.duration_s!r}")
        if not (math.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise TraceError(f"rate_per_s is a positive number, not {self.rate_per_s!r}")
        if not (math.isfinite(self.num_expected) and 1 <= round(self.num_expected) <= _MAX_REQUESTS):
            raise TraceError(
                f"a trace has from 1 to {_MAX_REQUESTS} requests, "
                f"not rate_per_s {self.rate_per_s:g} times duration_s {self.duration_s:g}"
            )
        least_cv, largest_cv = _CV_RANGE
        if self.cv is not None and self.cv != 0 and not least_cv <= self.cv <= largest_cv:
            raise TraceError(f"cv is 0, or a number from {least_cv:g} to {largest_cv:g}, not {self.cv!r}")
        if not (0 <= self.swing < 1 and 0 < self.active_share <= 1 and self.sojourn_s > 0 and self.group_size >= 1):
            raise TraceError("swing is below 1, active_share in (0, 1], sojourn_s and group_size are positive")
        if not self.models or len(set(self.models)) != len(self.models):
            raise TraceError("a recipe names at least one model, and each once")
        lengths_of(self.lengths)
        popularity(len(self.models), self.zipf)
        check_seed(self.seed)

    @property
    def num_expected(self) -> float:
        """Requests, but for rounding."""
        return self.rate_per_s * self.duration_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArrivals:
    """What a recipe gives one model."""

    model: str
    num_requests: int
    cv: float

    @property
    def expected_cv(self) -> float:
        """The coefficient of variation that so few requests show on average."""
        return expected_cv(self.num_requests, self.cv)


def model_arrivals(recipe: Recipe) -> tuple[ModelArrivals, ...]:
    """How many requests each model gets, and how bursty they are; the most popular model is drawn too."""
    rng = _generator(recipe, "models")
    shares = popularity(len(recipe.models), recipe.zipf)[rng.permutation(len(recipe.models))]
    counts = _whole(shares * round(recipe.num_expected))
    drawn = np.minimum(_MAX_CV, rng.lognormal(_CV_LOG_MEAN, _CV_LOG_SIGMA, len(recipe.models)))
    drawn[rng.random(len(recipe.models)) < _CLOCKWORK_SHARE] = 0.0
    return tuple(
        ModelArrivals(model=model, num_requests=int(count), cv=float(cv) if recipe.cv is None else recipe.cv)
        for model, count, cv in zip(recipe.models, counts, drawn, strict=True)
    )


def popularity(num_models: int, zipf: float) -> Floats:
    """Shares of all requests by rank, the most popular first; raises TraceError."""
    if not (math.isfinite(zipf) and zipf > 0):
        raise TraceError(f"zipf is a positive number, not {zipf!r}")
    weights = np.arange(1, num_models + 1, dtype=np.float64) ** -zipf
    shares: Floats = weights / weights.sum()
    return shares


def check_seed(seed: int) -> None:
    """Raise TraceError for a seed that nothing can be drawn by."""
    if seed < 0:
        raise TraceError(f"seed is a whole number that is not negative, not {seed}")


def arrivals(recipe: Recipe) -> tuple[Floats, NDArray[np.int64]]:
    """Times in their order, in seconds, and the place of each one's model in the recipe."""
    rng = _generator(recipe, "arrivals")
    wanted = model_arrivals(recipe)
    owners = np.repeat(np.arange(len(wanted)), [model.num_requests for model in wanted])
    if recipe.mixed_bursts:
        return _mixed(recipe, rng, owners)
    times_s: list[Floats] = []
    for number, model in enumerate(wanted):
        if number % recipe.group_size == 0:
            active = sojourns(rng, recipe.duration_s, share=recipe.active_share, sojourn_s=recipe.sojourn_s)
        rates = intensity(recipe.duration_s, swing=recipe.swing, active=active)
        times_s.append(warp(renewal(rng, model.num_requests, model.cv), rates, recipe.duration_s))
    all_s = np.concatenate(times_s)
    order = np.argsort(all_s, kind="stable")
    return all_s[order], owners[order]


def _mixed(recipe: Recipe, rng: np.random.Generator, owners: NDArray[np.int64]) -> tuple[Floats, NDArray[np.int64]]:
    active = sojourns(rng, recipe.duration_s, share=recipe.active_share, sojourn_s=recipe.sojourn_s)
    rates = intensity(recipe.duration_s, swing=recipe.swing, active=active)
    # A cv is that of the whole here, so none can be drawn per model.
    places = renewal(rng, len(owners), _MIXED_CV if recipe.cv is None else recipe.cv)
    return warp(places, rates, recipe.duration_s), rng.permutation(owners)


def generate(recipe: Recipe) -> Trace:
    """Make the trace of a recipe."""
    times_s, owners = arrivals(recipe)
    inputs, outputs = lengths_of(recipe.lengths).draw(_generator(recipe, "lengths"), len(times_s))
    requests = tuple(
        TraceRequest(
            arrival_s=arrival_s, model=recipe.models[owner], input_tokens=input_tokens, output_tokens=output_tokens
        )
        for arrival_s, owner, input_tokens, output_tokens in zip(
            times_s.tolist(), owners.tolist(), inputs.tolist(), outputs.tolist(), strict=True
        )
    )
    return Trace(name=recipe.name, duration_s=recipe.duration_s, requests=requests)


def _generator(recipe: Recipe, part: str) -> np.random.Generator:
    # A stream of its own for each part: another data set leaves the arrivals as they are.
    return np.random.default_rng([recipe.seed, *part.encode()])


def _whole(shares: Floats) -> Floats:
    """Round to whole numbers of the same sum, by largest remainder."""
    counts = np.floor(shares)
    missing = round(float(shares.sum() - counts.sum()))
    counts[np.argsort(counts - shares, kind="stable")[:missing]] += 1
    return counts
