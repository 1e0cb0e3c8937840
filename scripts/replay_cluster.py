"""A live cluster of small models that traces are replayed on, and the simulation of what it would do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean, median
from typing import Self

from sqlalchemy import select

from scripts.demo_checkpoints import make_opt
from scripts.live_cluster import LiveCluster
from scripts.waiting import wait_for_reports, wait_until
from sllm_tasks.client import AsyncClient, Client
from sllm_tasks.cluster import GpuId, NodeInfo
from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.estimators.facts import ArrivalFact, Fact, JobFact, LoadFact
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import from_ms, to_ms
from sllm_tasks.ledger.facts import arrival_facts, job_facts, load_facts
from sllm_tasks.ledger.inventory import list_models, model_info
from sllm_tasks.ledger.tables import DecisionRow, JobRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.policy.decision import AssignmentPath
from sllm_tasks.replay import Replayed, replay
from sllm_tasks.router.routing import LIVE_POLICY
from sllm_tasks.simulation.links import Discipline
from sllm_tasks.simulation.measured import MeasuredCluster
from sllm_tasks.simulation.policies.ours import Ours
from sllm_tasks.simulation.run import Simulation
from sllm_tasks.simulation.scenario import Scenario
from sllm_tasks.simulation.system import Loader, System
from sllm_tasks.traces.records import Trace

#: Layers of each model: their sizes, loads and steps differ by as much.
MODELS = {"small": 6, "medium": 12, "large": 18, "largest": 24}
_MAX_JOBS = 4
_CONTEXT = 512
#: Two of the models fit on a gpu, so that others have to go for most loads.
GPU_BYTES = 200_000_000
KEEP_ALIVE_S = 15.0
#: Simulations of one trace, which differ in what is drawn.
_NUM_RUNS = 9
_TIMEOUT_S = 120.0
_LOAD_PATHS = {AssignmentPath.LOAD_DRAM, AssignmentPath.LOAD_SSD, AssignmentPath.LOAD_REMOTE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """How long something was said to take before it was known, and what it took."""

    predicted_s: float
    low_s: float
    high_s: float
    actual_s: float

    @classmethod
    def of(cls, said: Estimate, actual_s: float) -> Self:
        """Compare an estimate with what came."""
        return cls(predicted_s=said.seconds, low_s=said.low_s, high_s=said.high_s, actual_s=actual_s)

    @property
    def is_inside(self) -> bool:
        """Whether it took a time within the interval."""
        return self.low_s <= self.actual_s <= self.high_s

    @property
    def error_s(self) -> float:
        """How wrong it was."""
        return abs(self.actual_s - self.predicted_s)


class ReplayCluster:
    """The cluster and its ledger."""

    def __init__(self, cluster: LiveCluster, live: LiveState, ledger: Database) -> None:
        self._cluster = cluster
        self._live = live
        self._ledger = ledger

    def deploy(self, folder: Path) -> None:
        """Deploy the models, and wait until both nodes have them."""
        with Client(self._cluster.url, self._cluster.api_key) as client:
            operations = [
                client.deploy(
                    name,
                    str(make_opt(folder / name, num_layers=num_layers, seed=num_layers)),
                    max_jobs=_MAX_JOBS,
                    context=_CONTEXT,
                    keep_alive_s=KEEP_ALIVE_S,
                )
                for name, num_layers in MODELS.items()
            ]
            for operation in operations:
                client.wait_for(operation, timeout=600)
        wait_until(lambda: all(len(node.checkpoints) == len(MODELS) for node in self._nodes()), "copies on both nodes")

    def empty(self) -> None:
        """Wait until nothing is loaded."""
        wait_until(lambda: not any(map(self._live.fleet.replicas_on, self._gpus())), "an idle cluster")

    def play(self, trace: Trace) -> Replayed:
        """Play a trace."""

        async def play() -> Replayed:
            async with AsyncClient(self._cluster.url, self._cluster.api_key) as client:
                return await replay(client, trace, timeout_s=_TIMEOUT_S)

        replayed = asyncio.run(play())
        if replayed.finished < 1:
            raise SystemExit(f"only {replayed.finished:.1%} of the jobs succeeded")
        wait_for_reports(self._live)
        return replayed

    def simulate(self, trace: Trace) -> tuple[float, ...]:
        """Simulate a trace on what the ledger has taught by now; startup times in seconds, of several runs together.

        How late each load is, is drawn, and some thirty draws of one run say little.
        """
        facts = self._facts()
        prompts = [fact.prompt_tokens for fact in facts if isinstance(fact, JobFact)]
        with self._ledger.reading() as session:
            models = [model_info(row) for row in list_models(session, ready_only=True)]
        estimates = LearnedEstimates(facts)
        measured = MeasuredCluster(
            nodes=self._nodes(),
            gpus=self._live.fleet.gpus(),
            models=models,
            estimates=estimates,
            prompt_tokens=round(median(prompts)),
        )
        hardware = measured.hardware()
        scenario = Scenario(
            name=trace.name,
            hardware=hardware,
            trace=trace,
            max_jobs=_MAX_JOBS,
            timeout_s=_TIMEOUT_S,
            placement={node.name: tuple(hardware.models_by_name) for node in hardware.nodes},
            in_dram={
                node.name: tuple(model.name for model in models if model.checkpoint in node.in_dram)
                for node in self._nodes()
            },
            dispatch_s=self._dispatch_s(),
            load_ratios=estimates.load_ratios(),
            facts=facts,
        )
        system = _live_system(measured.load_start_s)
        runs = [Simulation(replace(scenario, seed=seed), system).run() for seed in range(_NUM_RUNS)]
        return tuple(job.startup_s for run in runs for job in run.jobs)

    def loads(self, since: datetime) -> list[Prediction]:
        """What the ledger's loads until then tell of each load to a gpu since then, as the router's estimates do."""
        with self._ledger.reading() as session:
            timed = load_facts(session, since=self.now - timedelta(hours=1), limit=10_000)
        estimates, found = LearnedEstimates(), []
        for each in timed:
            if isinstance(fact := each.fact, LoadFact):
                if fact.to_gpu and each.at >= since:
                    said = estimates.loading(fact.node, fact.tier, fact.num_bytes, queued_bytes=fact.queued_bytes)
                    found.append(Prediction.of(said, fact.seconds))
                estimates.learn(fact)
        return found

    def starts(self, since: datetime) -> list[Prediction]:
        """What the router predicted since then from its decision for a load to the first token."""
        query = select(DecisionRow.choice, DecisionRow.actual_s).where(
            DecisionRow.at >= since, DecisionRow.path.in_(_LOAD_PATHS), DecisionRow.actual_s.is_not(None)
        )
        with self._ledger.reading() as session:
            rows = session.execute(query).all()
        return [
            Prediction(
                predicted_s=start["seconds"], low_s=start["low_s"], high_s=start["high_s"], actual_s=row.actual_s
            )
            for row in rows
            if isinstance(start := row.choice.get("start"), Mapping)
        ]

    @property
    def now(self) -> datetime:
        """The cluster's time."""
        return from_ms(self._live.now_ms())

    def _facts(self) -> tuple[Fact, ...]:
        """All that was measured; a simulation begins now."""
        now, since, limit = self.now, self.now - timedelta(hours=1), 10_000
        with self._ledger.reading() as session:
            found = load_facts(session, since=since, limit=limit) + job_facts(session, since=since, limit=limit)
            arrivals = arrival_facts(session, since=since, limit=limit, of_each=limit)
        come = [timed.fact for timed in arrivals if isinstance(timed.fact, ArrivalFact)]
        now_s = to_ms(now) / 1_000
        return (*(timed.fact for timed in found), *(replace(fact, at_s=fact.at_s - now_s) for fact in come))

    def _dispatch_s(self) -> float:
        """From acceptance to the engine for jobs that found a place at once.

        Most warm jobs have their place at once, so the median is the time until then of one that did not wait; from its
        place to the engine's next step every job takes its time, so that is the mean.
        """
        with self._ledger.reading() as session:
            rows = session.execute(select(JobRow.created_at, JobRow.timings_ms, JobRow.assignment)).all()
        warm = [
            (to_ms(row.created_at), row.timings_ms)
            for row in rows
            if (row.assignment or {}).get("start_kind") == StartKind.WARM and "prefill_ms" in (row.timings_ms or {})
        ]
        to_place_ms = median(timings["assigned_ms"] - created_ms for created_ms, timings in warm)
        to_engine_ms = fmean(timings["prefill_ms"] - timings["assigned_ms"] for _, timings in warm)
        return max(0.0, float(to_place_ms + to_engine_ms) / 1_000)

    def _nodes(self) -> Sequence[NodeInfo]:
        return self._live.fleet.nodes(self._live.now_ms())

    def _gpus(self) -> list[GpuId]:
        return [gpu.id for gpu in self._live.fleet.gpus()]


def _live_system(load_start_s: float) -> System:
    return System(
        name="live",
        title="the cluster as it is",
        make_policy=lambda _seed: Ours(LIVE_POLICY),
        # What is in the page cache is mapped from there, and does not come into the pool.
        loader=Loader(discipline=Discipline.REMAINING, start_s=load_start_s, keeps_in_dram=False),
        keep_alive_s=KEEP_ALIVE_S,
        reads_in_turn=True,
        resumes=True,
    )
