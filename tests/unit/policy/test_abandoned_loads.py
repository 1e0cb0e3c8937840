"""A replica that loads for nobody is given up."""

from sllm_tasks.cluster import GpuId, ModelInfo, Replica, ReplicaState
from sllm_tasks.policy.keepalive import expired_replicas
from sllm_tasks.policy.replica_table import ReplicaTable
from sllm_tasks.policy.view import ClusterView


def _view(now_ms: int, num_jobs: int) -> ClusterView:
    replica = Replica(
        id="replica_1", model="m", checkpoint="c", gpus=(GpuId("node0", 0),), state=ReplicaState.LOADING,
        bytes_per_gpu=10, max_jobs=4, engine="steploop", context=64, num_jobs=num_jobs, idle_since_ms=1_000,
    )  # fmt: skip
    model = ModelInfo(
        name="m", checkpoint="c", num_gpus=1, bytes_per_gpu=10, max_jobs=4, context=64, keep_alive_s=60, min_replicas=1
    )
    return ClusterView(now_ms=now_ms, replicas=ReplicaTable([replica]), models={"m": model})


def test_a_load_whose_jobs_have_gone_is_given_up_after_a_while() -> None:
    assert expired_replicas(_view(now_ms=10_999, num_jobs=0)) == []
    assert [replica.id for replica in expired_replicas(_view(now_ms=11_000, num_jobs=0))] == ["replica_1"]


def test_a_load_that_a_job_waits_for_is_never_given_up() -> None:
    assert expired_replicas(_view(now_ms=1_000_000, num_jobs=1)) == []
