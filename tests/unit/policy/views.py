"""Clusters to decide about: built by hand, or drawn by Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from sllm_tasks.cluster import Gpu, GpuId, GpuState, ModelInfo, NodeInfo, Replica, ReplicaState
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.assign import assign
from sllm_tasks.policy.decision import Assignment
from sllm_tasks.policy.prices import Prices
from sllm_tasks.policy.replica_table import ReplicaTable
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, WaitingJob

CAPACITY_BYTES = 100


def make_model(name: str = "m", **changes: object) -> ModelInfo:
    """A model of checkpoint `c-<name>` on one gpu."""
    values: dict[str, object] = {
        "name": name,
        "checkpoint": f"c-{name}",
        "num_gpus": 1,
        "bytes_per_gpu": 40,
        "max_jobs": 4,
        "context": 64,
        "keep_alive_s": 60.0,
    }
    return ModelInfo(**{**values, **changes})  # type: ignore[arg-type]


def make_replica(replica_id: str, gpu: GpuId, model: ModelInfo, **changes: object) -> Replica:
    """A ready and idle replica of a model."""
    values: dict[str, object] = {
        "id": replica_id,
        "model": model.name,
        "checkpoint": model.checkpoint,
        "gpus": (gpu,),
        "state": ReplicaState.READY,
        "bytes_per_gpu": model.bytes_per_gpu,
        "max_jobs": model.max_jobs,
        "engine": model.engine,
        "context": model.context,
    }
    return Replica(**{**values, **changes})  # type: ignore[arg-type]


def make_view(
    *replicas: Replica,
    models: list[ModelInfo],
    gpus: list[GpuId],
    now_ms: int = 0,
    draining: frozenset[GpuId] = frozenset(),
) -> ClusterView:
    """A cluster in which every node has every checkpoint, and gpus hold just these replicas."""
    records = {}
    for gpu in gpus:
        held = [replica for replica in replicas if gpu in replica.gpus and replica.state is not ReplicaState.UNLOADING]
        records[gpu] = Gpu(
            id=gpu,
            worker_id=f"worker-{gpu}",
            device="cpu",
            capacity_bytes=CAPACITY_BYTES,
            reserved_bytes=sum(replica.bytes_per_gpu for replica in held),
            state=GpuState.DRAINING if gpu in draining else GpuState.UP,
        )
    checkpoints = frozenset(model.checkpoint for model in models)
    return ClusterView(
        now_ms=now_ms,
        gpus=records,
        replicas=ReplicaTable(replicas),
        nodes={gpu.node: NodeInfo(name=gpu.node, checkpoints=checkpoints) for gpu in gpus},
        models={model.name: model for model in models},
    )


def prices(view: ClusterView, estimates: LearnedEstimates | None = None) -> Prices:
    """What things cost in a cluster, with nothing learned unless given."""
    return Prices(view, estimates or LearnedEstimates(), PolicySettings())


def waiting_job(model: str = "m") -> WaitingJob:
    """A job that nobody has served yet."""
    return WaitingJob(id="job_1", model=model, attempt=1)


def choose(view: ClusterView, job: WaitingJob, **settings: bool) -> Assignment:
    """Decide with nothing learned and nobody moved."""
    return assign(view, job, LearnedEstimates(), PolicySettings(**{"migrate": False, **settings})).choice


@st.composite
def views(draw: st.DrawFn) -> ClusterView:
    """Clusters of up to three gpus with replicas in every state, none of them over its memory."""
    models = [
        make_model(
            name,
            bytes_per_gpu=draw(st.integers(1, CAPACITY_BYTES)),
            max_replicas=draw(st.integers(1, 3)),
            min_replicas=draw(st.integers(0, 1)),
            keep_alive_s=draw(st.integers(0, 3)),
        )
        for name in ("m", "n", "o")
    ]
    gpus = [GpuId(f"node{i}", 0) for i in range(draw(st.integers(1, 3)))]
    replicas: list[Replica] = []
    for gpu in gpus:
        free_bytes = CAPACITY_BYTES
        for _ in range(draw(st.integers(0, 4))):
            num_bytes = draw(st.integers(1, 60))
            state = draw(st.sampled_from(ReplicaState))
            if state is not ReplicaState.UNLOADING and num_bytes > free_bytes:
                continue
            free_bytes -= num_bytes if state is not ReplicaState.UNLOADING else 0
            replicas.append(
                make_replica(
                    f"replica_{len(replicas)}",
                    gpu,
                    draw(st.sampled_from(models)),
                    state=state,
                    bytes_per_gpu=num_bytes,
                    num_jobs=0 if state is ReplicaState.UNLOADING else draw(st.sampled_from([0, 0, 1, 4])),
                    idle_since_ms=draw(st.integers(0, 5_000)),
                )
            )
    draining = draw(st.frozensets(st.sampled_from(gpus), max_size=1))
    return make_view(*replicas, models=models, gpus=gpus, now_ms=5_000, draining=draining)
