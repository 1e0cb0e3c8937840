"""Measure how fast the router decides, on clusters of 4 to 512 gpus.

Each cluster serves 1,000 models, of which a fifth lies on the SSD of each node. Its gpus are full of replicas, some of
them busy, so that most jobs find a warm replica full or none at all: victims have to be chosen, waiting to be priced.
Jobs name models by a Zipf distribution. A decision is timed with everything that it changes in the books; what it
costs to carry it out (one script and one message) is measured by `scripts/bench_dispatch`.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from scripts.bench_report import Report, Row, add_report_argument, finish
from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, NodeInfo, Replica, ReplicaState, Tier
from sllm_tasks.estimators.facts import ArrivalFact, Fact, JobFact, LoadFact
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.assign import assign
from sllm_tasks.policy.effects import carry_out
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, RunningJob, WaitingJob

_GB = 10**9
_GPU_BYTES = 80 * _GB
_NOW_MS = 3_600_000
#: Nodes of each cluster and gpus of each node.
_SIZES = ((1, 4), (4, 4), (8, 8), (16, 8), (32, 8), (64, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    num_models: int
    num_decisions: int
    num_rounds: int
    #: Of the models, on each node's SSD.
    resident: float
    #: Of the replicas, when a round begins.
    busy: float
    zipf: float = 1.1


def _models(settings: Settings, chosen: random.Random) -> dict[str, ModelInfo]:
    sizes = (8, 16, 26, 60)
    found = {}
    for index in range(settings.num_models):
        size = chosen.choice(sizes) * _GB
        found[f"m{index:04}"] = ModelInfo(
            name=f"m{index:04}", checkpoint=f"c{index:04}", num_gpus=2 if index % 20 == 0 else 1,
            bytes_per_gpu=int(size * 1.2), max_jobs=8, context=4096, keep_alive_s=60.0, checkpoint_bytes=size,
        )  # fmt: skip
    return found


def _weights(settings: Settings) -> list[float]:
    return [1 / (rank + 1) ** settings.zipf for rank in range(settings.num_models)]


def _facts(models: dict[str, ModelInfo], nodes: Sequence[str], chosen: random.Random) -> list[Fact]:
    facts: list[Fact] = []
    for node in nodes:
        for tier, rate in ((Tier.SSD, 6.0), (Tier.DRAM, 25.0)):
            for _ in range(16):
                size = chosen.uniform(8, 60)
                seconds = (0.2 + size / rate) * chosen.lognormvariate(0, 0.1)
                facts.append(LoadFact(node=node, tier=tier, num_bytes=int(size * _GB), seconds=seconds))
    for model in models:
        for _ in range(8):
            prompt, output = chosen.randint(50, 2_000), chosen.randint(20, 500)
            job = JobFact(
                model=model, prompt_tokens=prompt, completion_tokens=output,
                first_token_s=prompt / 8_000, token_s=chosen.uniform(0.02, 0.04), batch=chosen.randint(1, 8),
            )  # fmt: skip
            facts += [job, ArrivalFact(model=model, at_s=chosen.uniform(0, _NOW_MS / 1000))]
    return facts


def make_cluster(settings: Settings, num_nodes: int, gpus_per_node: int, seed: int) -> tuple[ClusterView, list[Fact]]:
    """Build a cluster whose gpus are full, and what was measured on it before."""
    chosen = random.Random(seed)
    models = _models(settings, chosen)
    names = [f"node{index:02}" for index in range(num_nodes)]
    gpu_ids = [GpuId(node, index) for node in names for index in range(gpus_per_node)]
    nodes = {}
    for name in names:
        on_ssd = frozenset(
            models[model].checkpoint for model in chosen.sample(list(models), int(settings.resident * len(models)))
        )
        in_dram = frozenset(sorted(on_ssd)[:: max(1, len(on_ssd) // 20)])
        nodes[name] = NodeInfo(name=name, checkpoints=on_ssd, in_dram=in_dram, gpus=tuple(gpu_ids))
    gpus = {id_: Gpu(id=id_, worker_id="w", device="cuda", capacity_bytes=_GPU_BYTES) for id_ in gpu_ids}
    view = ClusterView(now_ms=_NOW_MS, gpus=gpus, nodes=nodes, models=models)
    weights = _weights(settings)
    for gpu in gpu_ids:
        for name in chosen.choices(list(models), weights, k=8):
            model = models[name]
            fits = model.num_gpus == 1 and view.gpus[gpu].free_bytes >= model.bytes_per_gpu
            if fits and model.checkpoint in nodes[gpu.node].checkpoints:
                view = view.with_replica(_replica(f"{gpu}-{name}", model, gpu, settings, chosen))
    running = {replica.id: _jobs(replica, chosen) for replica in view.replicas.values() if replica.num_jobs}
    return replace(view, running=running), _facts(models, names, chosen)


def _replica(replica_id: str, model: ModelInfo, gpu: GpuId, settings: Settings, chosen: random.Random) -> Replica:
    return Replica(
        id=replica_id, model=model.name, checkpoint=model.checkpoint, gpus=(gpu,), state=ReplicaState.READY,
        bytes_per_gpu=model.bytes_per_gpu, max_jobs=model.max_jobs, engine=model.engine, context=model.context,
        num_jobs=model.max_jobs if chosen.random() < settings.busy else 0,
        idle_since_ms=chosen.randint(0, _NOW_MS), ready_ms=1,
    )  # fmt: skip


def _jobs(replica: Replica, chosen: random.Random) -> tuple[RunningJob, ...]:
    return tuple(
        RunningJob(
            id=f"{replica.id}-{index}", model=replica.model, prompt_tokens=chosen.randint(50, 2_000), max_tokens=500,
            started_ms=_NOW_MS - chosen.randint(0, 5_000),
        )
        for index in range(replica.num_jobs)
    )  # fmt: skip


def _decide(
    view: ClusterView, estimates: LearnedEstimates, settings: Settings, seed: int, *, migrate: bool
) -> list[float]:
    """Decide for so many jobs one after the other, each in the cluster that the ones before have left; seconds each."""
    chosen = random.Random(seed)
    names = chosen.choices(list(view.models), _weights(settings), k=settings.num_decisions)
    policy, first, times = PolicySettings(migrate=migrate, load_remote=False), view, []
    for index, name in enumerate(names):
        job = WaitingJob(id=f"job_{index}", model=name, attempt=1, prompt_tokens=chosen.randint(50, 2_000))
        if index % 100 == 0:
            # Before the cluster is full of loads that nobody ends here.
            view = first
        start_s = time.perf_counter()
        choice = assign(view, job, estimates, policy).choice
        view = carry_out(view, job, choice, lambda index=index: f"new-{index}")  # type: ignore[misc] # the default is bound now
        times.append(time.perf_counter() - start_s)
    return times


def _measure(settings: Settings) -> Report:
    rows, rates, slowest = [], dict[str, float](), dict[str, float]()
    for num_nodes, gpus_per_node in _SIZES:
        view, facts = make_cluster(settings, num_nodes, gpus_per_node, seed=1)
        estimates = LearnedEstimates(facts)
        for migrate in (False, True):
            name = f"{num_nodes * gpus_per_node} gpus" + (", moving running jobs" if migrate else "")
            rounds = [_decide(view, estimates, settings, seed, migrate=migrate) for seed in range(settings.num_rounds)]
            rates[name] = median(len(times) / sum(times) for times in rounds)
            slowest[name] = median(_quantile(times, 0.99) for times in rounds) * 1000
            rows.append(Row(f"decisions, {name}", "1/s", tuple(len(times) / sum(times) for times in rounds)))
            rows.append(Row(f"p99, {name}", "ms", tuple(_quantile(times, 0.99) * 1000 for times in rounds)))
    largest = "512 gpus"
    return Report(
        settings={
            "models": settings.num_models, "decisions": settings.num_decisions, "rounds": settings.num_rounds,
            "resident": settings.resident, "busy": settings.busy, "zipf": settings.zipf,
        },
        rows=rows,
        figures={
            "decisions_per_s": rates[largest],
            "decision_p99_ms": slowest[largest],
            "decisions_per_s_moving": rates[f"{largest}, moving running jobs"],
            "decision_p99_ms_moving": slowest[f"{largest}, moving running jobs"],
            "slowdown_4_to_512_gpus": rates["4 gpus"] / rates[largest],
        },
    )  # fmt: skip


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Measure how fast the router decides, on clusters of 4 to 512 gpus."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--decisions", type=int, default=1_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help="five times the decisions")
    add_report_argument(parser)
    arguments = parser.parse_args()
    settings = Settings(
        num_models=arguments.models,
        num_decisions=arguments.decisions * (5 if arguments.full else 1),
        num_rounds=arguments.rounds,
        resident=0.2,
        busy=0.5,
    )
    finish(_measure(settings), arguments.json)


if __name__ == "__main__":
    main()
