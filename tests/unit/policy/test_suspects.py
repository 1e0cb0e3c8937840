"""Jobs that one more dead worker would end as poison never share a gpu, so that only one of them is to blame."""

from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, NodeInfo, Replica, ReplicaState
from sllm_tasks.policy.decision import AssignmentPath
from sllm_tasks.policy.replica_table import ReplicaTable
from sllm_tasks.policy.view import ClusterView, WaitingJob
from tests.unit.policy.views import choose

_FIRST, _SECOND = GpuId("node0", 0), GpuId("node1", 0)


def _view(*, suspects: dict[GpuId, str]) -> ClusterView:
    gpus = {
        gpu: Gpu(id=gpu, worker_id="w", device="cpu", capacity_bytes=100, suspect=suspects.get(gpu, ""))
        for gpu in (_FIRST, _SECOND)
    }
    replica = Replica(
        id="replica_1",
        model="m",
        checkpoint="c",
        gpus=(_FIRST,),
        state=ReplicaState.READY,
        bytes_per_gpu=10,
        max_jobs=4,
        engine="steploop",
        context=64,
    )
    model = ModelInfo(
        name="m", checkpoint="c", num_gpus=1, bytes_per_gpu=10, max_jobs=4, context=64, keep_alive_s=60, max_replicas=2
    )
    nodes = {name: NodeInfo(name=name, checkpoints=frozenset({"c"})) for name in ("node0", "node1")}
    return ClusterView(now_ms=0, gpus=gpus, replicas=ReplicaTable([replica]), nodes=nodes, models={"m": model})


def _job(*, suspect: bool) -> WaitingJob:
    return WaitingJob(id="job_1", model="m", attempt=3, suspect=suspect)


def test_a_suspect_takes_a_warm_replica_where_no_other_suspect_runs() -> None:
    assert choose(_view(suspects={}), _job(suspect=True)).replica_id == "replica_1"


def test_a_suspect_starts_a_replica_on_another_gpu_rather_than_join_a_suspect() -> None:
    decision = choose(_view(suspects={_FIRST: "job_2"}), _job(suspect=True))
    assert (decision.path, decision.gpus) == (AssignmentPath.LOAD_SSD, (_SECOND,))


def test_a_suspect_waits_while_every_gpu_runs_one() -> None:
    decision = choose(_view(suspects={_FIRST: "job_2", _SECOND: "job_3"}), _job(suspect=True))
    assert decision.path is AssignmentPath.WAIT


def test_other_jobs_join_a_suspect() -> None:
    assert choose(_view(suspects={_FIRST: "job_2"}), _job(suspect=False)).replica_id == "replica_1"
