"""A replica that loads for nobody is given up, unless its model is to have it anyway."""

from sllm_tasks.cluster import GpuId, ReplicaState
from sllm_tasks.policy.keepalive import expired_replicas
from tests.unit.policy.views import make_model, make_replica, make_view, prices

_GPU = GpuId("node0", 0)


def _expired(now_ms: int, *, num_jobs: int = 0, min_replicas: int = 0) -> list[str]:
    model = make_model(min_replicas=min_replicas)
    changes = {"state": ReplicaState.LOADING, "num_jobs": num_jobs, "idle_since_ms": 1_000}
    replica = make_replica("replica_1", _GPU, model, **changes)
    view = make_view(replica, models=[model], gpus=[_GPU], now_ms=now_ms)
    return [replica.id for replica in expired_replicas(prices(view))]


def test_a_load_whose_jobs_have_gone_is_given_up_after_a_while() -> None:
    assert _expired(10_999) == []
    assert _expired(11_000) == ["replica_1"]


def test_a_load_that_a_job_waits_for_is_never_given_up() -> None:
    assert _expired(1_000_000, num_jobs=1) == []


def test_a_load_that_completes_the_least_replicas_is_never_given_up() -> None:
    assert _expired(1_000_000, min_replicas=1) == []
