"""What is counted and timed for Prometheus over the whole cluster: names, labels, buckets; pure.

Counts are kept in the live state, because no process lives as long as they should, and begin anew when that is lost.
Values of labels come from enumerations, so that the number of series is bounded whatever users send.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

#: From a warm start to a checkpoint that comes over a slow network, in seconds.
_TIME_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_SUM: Final = "sum"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A counter, or with `buckets` a histogram."""

    #: As Prometheus writes it, without the `_total` of a counter.
    name: str
    meaning: str
    labels: tuple[str, ...] = ()
    #: Upper bounds in ascending order; what is above the last is counted too.
    buckets: tuple[float, ...] = ()


JOBS: Final = Metric(name="sllm_jobs", meaning="Jobs that ended.", labels=("status", "code"))
TOKENS: Final = Metric(name="sllm_tokens", meaning="Tokens of jobs that ended.", labels=("kind",))
PHASES: Final = Metric(
    name="sllm_job_phase_seconds",
    meaning="Parts of the lives of jobs that a worker ended; first_token is from acceptance to the first token.",
    labels=("phase", "start_kind"),
    buckets=_TIME_BUCKETS_S,
)
LOADS: Final = Metric(
    name="sllm_load_seconds", meaning="Loads of checkpoints.", labels=("tier",), buckets=_TIME_BUCKETS_S
)
LOADED_BYTES: Final = Metric(name="sllm_load_bytes", meaning="Bytes that were loaded.", labels=("tier",))
MIGRATIONS: Final = Metric(name="sllm_migration", meaning="Migrations that ended.", labels=("outcome", "reason"))
MIGRATION_ROUNDS: Final = Metric(name="sllm_migration_rounds", meaning="Rounds that targets of migrations have read.")
MIGRATION_PAUSES: Final = Metric(
    name="sllm_migration_pause_seconds",
    meaning="From the last token before a move to the first one after it.",
    buckets=_TIME_BUCKETS_S,
)
METRICS: Final = (JOBS, TOKENS, PHASES, LOADS, LOADED_BYTES, MIGRATIONS, MIGRATION_ROUNDS, MIGRATION_PAUSES)


@dataclass(frozen=True, slots=True)
class Sample:
    """An amount to be added to a counter, or a value to be sorted into a histogram."""

    metric: Metric
    #: Values of the labels, in their order.
    labels: tuple[str, ...] = ()
    value: float = 1.0

    def increments(self) -> list[tuple[str, float]]:
        """What is added to which field of the stored counts."""
        if not self.metric.buckets:
            return [(_field(self.metric, self.labels), self.value)]
        bucket = bisect_left(self.metric.buckets, self.value)
        return [
            (_field(self.metric, (*self.labels, str(bucket))), 1.0),
            (_field(self.metric, (*self.labels, _SUM)), self.value),
        ]


@dataclass(frozen=True, slots=True)
class Histogram:
    """What was sorted into a histogram under one set of labels."""

    #: How many values each bucket and those before it hold; one more than there are bounds.
    cumulative: tuple[float, ...]
    sum: float


def counts_of(metric: Metric, stored: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Counts of a counter by the values of its labels; one without labels is 0 before it is counted."""
    found = dict(_fields(metric, stored))
    return found if metric.labels else {(): 0.0} | found


def histograms_of(metric: Metric, stored: Mapping[str, float]) -> dict[tuple[str, ...], Histogram]:
    """Histograms by the values of their labels."""
    parts: dict[tuple[str, ...], dict[str, float]] = {}
    for (*labels, part), value in _fields(metric, stored):
        parts.setdefault(tuple(labels), {})[part] = value
    return {labels: _histogram(metric.buckets, found) for labels, found in parts.items()}


def _histogram(buckets: Sequence[float], parts: Mapping[str, float]) -> Histogram:
    counts = (parts.get(str(bucket), 0.0) for bucket in range(len(buckets) + 1))
    return Histogram(cumulative=tuple(accumulate(counts)), sum=parts.get(_SUM, 0.0))


def _field(metric: Metric, labels: Sequence[str]) -> str:
    return "|".join((metric.name, *labels))


def _fields(metric: Metric, stored: Mapping[str, float]) -> list[tuple[tuple[str, ...], float]]:
    split = ((field.split("|"), value) for field, value in sorted(stored.items()))
    return [(tuple(labels), value) for (name, *labels), value in split if name == metric.name]
