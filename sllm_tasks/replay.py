"""Play a trace against a live cluster: every request at its own time, however slow the answers are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sllm_tasks.client import AsyncClient, ClientError, JobTimeoutError
from sllm_tasks.client.records import Json
from sllm_tasks.errors import TraceError
from sllm_tasks.traces.records import Trace, TraceRequest

#: A word that nearly every vocabulary has as one token.
_WORD = " the"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedJob:
    """How one request fared. Times are in seconds, None where the job did not come so far."""

    model: str
    #: How late it was sent: more than a few milliseconds is this machine's doing, not the cluster's.
    lag_s: float
    #: From its acceptance until its replica was loaded, and until its first token; as the cluster measured them.
    startup_s: float | None
    first_token_s: float | None
    #: How it ended, or `timeout`, or the error.
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of one kind of time, in seconds."""

    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float

    @classmethod
    def of(cls, times_s: Sequence[float]) -> Percentiles | None:
        """None if there are none."""
        if not times_s:
            return None
        p50_s, p95_s, p99_s = (float(value) for value in np.percentile(times_s, (50, 95, 99)))
        return cls(mean_s=float(np.mean(times_s)), p50_s=p50_s, p95_s=p95_s, p99_s=p99_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A trace that was played."""

    jobs: tuple[ReplayedJob, ...]

    @property
    def finished(self) -> float:
        """Share of the jobs that succeeded."""
        return sum(job.status == "succeeded" for job in self.jobs) / max(len(self.jobs), 1)

    @property
    def startup(self) -> Percentiles | None:
        """Of the time until replicas were loaded."""
        return Percentiles.of([job.startup_s for job in self.jobs if job.startup_s is not None])

    @property
    def first_token(self) -> Percentiles | None:
        """Of the time to the first token."""
        return Percentiles.of([job.first_token_s for job in self.jobs if job.first_token_s is not None])

    @property
    def lag(self) -> Percentiles | None:
        """Of how late requests were sent."""
        return Percentiles.of([job.lag_s for job in self.jobs])


async def replay(client: AsyncClient, trace: Trace, *, timeout_s: float) -> Replayed:
    """Send every request at its time and wait for all of them, for each at most `timeout_s`.

    Prompts have the length that the trace says in words; answers go on to theirs past any end.

    Raises:
        TraceError: The trace asks for a model that the cluster has not; nothing was sent then.

    """
    known = frozenset(str(model["id"]) for model in await client.models())
    trace.check_models(known)
    if not trace.requests:
        raise TraceError(f"trace {trace.name} holds no requests")
    begun_s = time.monotonic()
    sent = []
    for request in trace.requests:
        await asyncio.sleep(max(0.0, begun_s + request.arrival_s - time.monotonic()))
        lag_s = time.monotonic() - begun_s - request.arrival_s
        sent.append(asyncio.create_task(_play(client, request, lag_s, timeout_s)))
    return Replayed(jobs=tuple(await asyncio.gather(*sent)))


async def _play(client: AsyncClient, request: TraceRequest, lag_s: float, timeout_s: float) -> ReplayedJob:
    timings: Json = {}
    try:
        job = await client.submit(
            model=request.model,
            prompt=_WORD * request.input_tokens,
            max_tokens=request.output_tokens,
            ignore_eos=True,
            deadline_s=timeout_s,
        )
        try:
            await job.result(timeout=timeout_s)
            status = "succeeded"
        except JobTimeoutError:
            status = "timeout"
        except ClientError as error:
            status = str(error.code)
        timings = (await job.refresh()).raw["timings_ms"]
    except ClientError as error:
        status = str(error.code)
    return ReplayedJob(
        model=request.model,
        lag_s=max(0.0, lag_s),
        startup_s=_sum_s(timings, "queued", "placing", "loading"),
        first_token_s=_sum_s(timings, "first_token"),
        status=status,
    )


def _sum_s(timings: Json, *names: str) -> float | None:
    """Times of the parts together, None unless all of them are over."""
    parts_ms = [timings.get(name) for name in names]
    known_ms = [part_ms for part_ms in parts_ms if part_ms is not None]
    return sum(known_ms) / 1_000 if len(known_ms) == len(parts_ms) else None
