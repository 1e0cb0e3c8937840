"""Events as series over time; pure. A series has one value for each interval of a grid, by the interval's end."""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sllm_tasks.cluster import Tier
from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.history import JobLife, Prediction
from sllm_tasks.ledger.loads import MeasuredLoad

#: Ends of intervals of the same length, oldest first.
Grid = Sequence[datetime]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A few series that are looked at together; None where nothing was."""

    name: str
    title: str
    unit: str
    series: Mapping[str, Sequence[float | None]]


def make_grid(until: datetime, length: timedelta, num_intervals: int) -> list[datetime]:
    """Divide the time before an instant."""
    step = length / num_intervals
    return [until - step * (num_intervals - 1 - index) for index in range(num_intervals)]


def jobs_chart(lives: Iterable[JobLife], grid: Grid) -> Chart:
    """How many jobs waited and ran at the end of each interval."""
    known = list(lives)
    came = sorted(job.created_at for job in known)
    stopped_waiting = sorted(at for job in known if (at := job.started_at or job.ended_at) is not None)
    began = sorted(job.started_at for job in known if job.started_at is not None)
    ended = sorted(job.ended_at for job in known if job.started_at is not None and job.ended_at is not None)

    def difference(more: list[datetime], less: list[datetime]) -> list[float | None]:
        return [float(bisect_right(more, at) - bisect_right(less, at)) for at in grid]

    series = {"waiting": difference(came, stopped_waiting), "running": difference(began, ended)}
    return Chart(name="jobs", title="Jobs that wait and that run", unit="jobs", series=series)


def starts_chart(lives: Iterable[JobLife], grid: Grid) -> Chart:
    """The median time from acceptance to first token, for warm and for other starts."""
    warm: list[tuple[datetime, float]] = []
    cold: list[tuple[datetime, float]] = []
    for job in lives:
        if job.first_token_at is not None and job.start_kind is not None:
            seconds = (job.first_token_at - job.created_at).total_seconds()
            (warm if job.start_kind is StartKind.WARM else cold).append((job.first_token_at, seconds))
    series = {"warm": _medians(warm, grid), "cold": _medians(cold, grid)}
    return Chart(name="starts", title="Time to the first token, median", unit="s", series=series)


def loads_chart(loads: Iterable[MeasuredLoad], grid: Grid) -> Chart:
    """Loads per minute, by the slowest tier that was read."""
    times: dict[Tier, list[datetime]] = {Tier.REMOTE: [], Tier.SSD: [], Tier.DRAM: []}
    for load in loads:
        times[load.tier].append(load.at)
    minutes = _step(grid) / timedelta(minutes=1)
    series = {str(tier): [count / minutes for count in _counts(found, grid)] for tier, found in times.items()}
    return Chart(name="loads", title="Loads by the tier they came from", unit="per minute", series=series)


def predictions_chart(predictions: Iterable[Prediction], grid: Grid) -> Chart:
    """What the router has predicted beside what came of it, medians."""
    known = list(predictions)
    series = {
        "predicted": _medians([(each.at, each.predicted_s) for each in known], grid),
        "actual": _medians([(each.at, each.actual_s) for each in known], grid),
    }
    return Chart(
        name="predictions", title="Starts as the router predicted them, and as they were", unit="s", series=series
    )


def _step(grid: Grid) -> timedelta:
    return grid[1] - grid[0]


def _interval(at: datetime, grid: Grid) -> int | None:
    """The index of the interval that an instant is in; None if it is in none."""
    index = bisect_left(grid, at)
    return index if index < len(grid) and at > grid[0] - _step(grid) else None


def _counts(times: Iterable[datetime], grid: Grid) -> list[float]:
    counts = [0.0] * len(grid)
    for at in times:
        if (index := _interval(at, grid)) is not None:
            counts[index] += 1
    return counts


def _medians(values: Iterable[tuple[datetime, float]], grid: Grid) -> list[float | None]:
    found: list[list[float]] = [[] for _ in grid]
    for at, value in values:
        if (index := _interval(at, grid)) is not None:
            found[index].append(value)
    return [statistics.median(each) if each else None for each in found]
