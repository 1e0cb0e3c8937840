"""What comes of simulations: a record per job, and the figures that tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sllm_tasks.policy.decision import AssignmentPath
from sllm_tasks.simulation.fleet import SimJob, SimOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """How a job fared."""

    model: str
    arrival_s: float
    outcome: SimOutcome
    #: From its arrival to its start on a loaded replica, plus all pauses after that; the timeout if it never started.
    startup_s: float
    paused_s: float
    path: str
    #: Predicted when its place was decided, and what it was: until its first token. None for what never had one.
    predicted_s: float | None
    low_s: float
    high_s: float
    actual_s: float | None

    @classmethod
    def of(cls, job: SimJob, timeout_s: float) -> JobRecord:
        """The record of a job at the end of a simulation."""
        startup_s = timeout_s
        if job.started_s is not None and job.outcome is SimOutcome.FINISHED:
            startup_s = min(timeout_s, job.started_s - job.created_s + job.paused_s)
        # The first decision was about the first start; later ones follow pauses.
        is_comparable = job.predicted is not None and job.first_token_s is not None and not job.paused_s
        return cls(
            model=job.request.model,
            arrival_s=job.created_s,
            outcome=job.outcome,
            startup_s=startup_s,
            paused_s=job.paused_s,
            path=job.path,
            predicted_s=job.predicted.seconds if job.predicted is not None and is_comparable else None,
            low_s=job.predicted.low_s if job.predicted is not None else 0.0,
            high_s=job.predicted.high_s if job.predicted is not None else 0.0,
            actual_s=job.first_token_s - job.decided_s if job.first_token_s is not None and is_comparable else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One simulation."""

    system: str
    scenario: str
    seed: int
    timeout_s: float
    #: Sum over replicas and their gpus of the time between load and removal, as long as there were requests.
    held_gpu_s: float
    jobs: tuple[JobRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What is kept of a simulation when there are many."""

    startups_s: tuple[float, ...]
    num_finished: int
    #: Actual less predicted time to the first token, of all decisions that made a prediction.
    errors_s: tuple[float, ...]
    #: How many of those lay inside of their intervals.
    num_held: int
    #: Jobs that did not start on a loaded replica.
    num_cold: int
    held_gpu_s: float

    @classmethod
    def of(cls, run: RunRecord) -> Samples:
        """Take them from a run."""
        errors_s, num_held = [], 0
        for job in run.jobs:
            if job.predicted_s is not None and job.actual_s is not None:
                errors_s.append(job.actual_s - job.predicted_s)
                # A microsecond is rounding.
                num_held += job.low_s - 1e-6 <= job.actual_s <= job.high_s + 1e-6
        return cls(
            startups_s=tuple(job.startup_s for job in run.jobs),
            num_finished=sum(job.outcome is SimOutcome.FINISHED for job in run.jobs),
            errors_s=tuple(errors_s),
            num_held=num_held,
            num_cold=sum(job.path != AssignmentPath.WARM for job in run.jobs),
            held_gpu_s=run.held_gpu_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Startup latencies in seconds, the share of jobs that started within their time and finished, and what it took."""

    num_jobs: int
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    finished: float
    #: Share of jobs that did not start on a loaded replica.
    cold: float
    #: Of one run, on average.
    held_gpu_s: float

    @classmethod
    def of(cls, runs: Iterable[Samples]) -> Summary:
        """All jobs of some runs together."""
        runs = list(runs)
        startups_s = np.array([startup_s for run in runs for startup_s in run.startups_s])
        if not len(startups_s):
            return cls(num_jobs=0, mean_s=0.0, p50_s=0.0, p95_s=0.0, p99_s=0.0, finished=1.0, cold=0.0, held_gpu_s=0.0)
        p50_s, p95_s, p99_s = (float(value) for value in np.percentile(startups_s, (50, 95, 99)))
        return cls(
            num_jobs=len(startups_s),
            mean_s=float(startups_s.mean()),
            p50_s=p50_s,
            p95_s=p95_s,
            p99_s=p99_s,
            finished=sum(run.num_finished for run in runs) / len(startups_s),
            cold=sum(run.num_cold for run in runs) / len(startups_s),
            held_gpu_s=sum(run.held_gpu_s for run in runs) / len(runs),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateErrors:
    """How far predicted starts were from what came, in seconds, and how often the interval held."""

    num_jobs: int
    median_s: float
    p99_s: float
    worst_s: float
    coverage: float

    @classmethod
    def of(cls, runs: Iterable[Samples]) -> EstimateErrors | None:
        """Of all jobs with a prediction; None if none had one."""
        runs = list(runs)
        errors_s = np.abs([error_s for run in runs for error_s in run.errors_s])
        if not len(errors_s):
            return None
        return cls(
            num_jobs=len(errors_s),
            median_s=float(np.median(errors_s)),
            p99_s=float(np.percentile(errors_s, 99)),
            worst_s=float(errors_s.max()),
            coverage=sum(run.num_held for run in runs) / len(errors_s),
        )


def jain(values: Sequence[float]) -> float:
    """Jain's index of fairness: 1 when all are equal, 1/n when one has everything."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
