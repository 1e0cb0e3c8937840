"""Which idle replicas go: none that is in use, none that a model must keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given

from sllm_tasks.cluster import GpuId, Replica, ReplicaState
from sllm_tasks.estimators.facts import ArrivalFact
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.keepalive import expired_replicas
from sllm_tasks.policy.view import ClusterView
from tests.unit.policy.views import make_model, make_replica, make_view, prices, views

_GPU = GpuId("node0", 0)


def test_an_idle_replica_stays_for_its_keep_alive_and_not_longer() -> None:
    model = make_model(keep_alive_s=2.0)
    replica = make_replica("idle", _GPU, model, idle_since_ms=1_000)
    assert expired_replicas(prices(make_view(replica, models=[model], gpus=[_GPU], now_ms=2_999))) == []
    assert expired_replicas(prices(make_view(replica, models=[model], gpus=[_GPU], now_ms=3_000))) == [replica]


def test_a_model_keeps_its_least_replicas_and_the_oldest_go_first() -> None:
    model = make_model(keep_alive_s=0.0, min_replicas=1, bytes_per_gpu=10)
    old, young = (make_replica(name, _GPU, model, idle_since_ms=at) for name, at in (("old", 1), ("young", 2)))
    assert expired_replicas(prices(make_view(young, old, models=[model], gpus=[_GPU], now_ms=10_000))) == [old]


def test_an_idle_replica_of_a_former_shape_goes_at_once() -> None:
    model = make_model(max_jobs=4)
    replica = make_replica("former", _GPU, model)
    for served in (make_model(max_jobs=2), make_model(context=32), make_model(engine="instant")):
        assert expired_replicas(prices(make_view(replica, models=[served], gpus=[_GPU]))) == [replica]


def test_replicas_of_a_deleted_model_or_of_another_checkpoint_go_at_once() -> None:
    model, deleted = make_model(keep_alive_s=60.0), make_model("deleted")
    outdated = make_replica("outdated", _GPU, model, checkpoint="before")
    orphan = make_replica("orphan", _GPU, deleted)
    view = make_view(outdated, orphan, models=[model], gpus=[_GPU])
    assert {replica.id for replica in expired_replicas(prices(view))} == {"outdated", "orphan"}


def test_a_replica_of_another_checkpoint_does_not_count_as_one_that_a_model_keeps() -> None:
    model = make_model(keep_alive_s=0.0, min_replicas=1)
    outdated = make_replica("outdated", _GPU, model, checkpoint="before", idle_since_ms=9)
    current = make_replica("current", _GPU, model, idle_since_ms=1)
    view = make_view(outdated, current, models=[model], gpus=[_GPU], now_ms=10_000)
    assert expired_replicas(prices(view)) == [outdated]


def test_an_idle_replica_on_a_gpu_that_takes_no_work_goes_at_once_and_one_elsewhere_stays_for_it() -> None:
    model, other = make_model(keep_alive_s=0.0, min_replicas=1), GpuId("node1", 0)
    here, there = make_replica("here", _GPU, model, idle_since_ms=1), make_replica("there", other, model)
    view = make_view(here, there, models=[model], gpus=[_GPU, other], now_ms=1, draining=frozenset({_GPU}))
    assert expired_replicas(prices(view)) == [here]
    kept = replace(view, models={model.name: replace(model, keep_alive_s=60.0)})
    assert expired_replicas(prices(kept)) == [here]


def _arrivals(*at_s: float) -> LearnedEstimates:
    return LearnedEstimates(ArrivalFact(model="m", at_s=each) for each in at_s)


def test_an_adaptive_keep_alive_lasts_while_the_next_job_comes_soon_enough_for_its_load() -> None:
    model = make_model(keep_alive_s=None, checkpoint_bytes=2_500_000_000)
    replica = make_replica("idle", _GPU, model, idle_since_ms=600_000)
    # Jobs come every 10 s, or every ten minutes; a load takes a second, which is worth twenty.
    for gap_s, is_kept in ((10.0, True), (600.0, False)):
        estimates = _arrivals(*(600.0 - gap_s * number for number in reversed(range(20))))
        view = make_view(replica, models=[model], gpus=[_GPU], now_ms=602_000)
        assert (expired_replicas(prices(view, estimates)) == []) is is_kept


def test_a_replica_that_was_loaded_for_a_job_that_is_due_is_kept_for_it() -> None:
    model = make_model(keep_alive_s=None, checkpoint_bytes=2_500_000_000)
    estimates = _arrivals(*(100.0 * number for number in range(10)))
    loaded = make_replica("before", _GPU, model, idle_since_ms=995_000)
    for now_ms, is_kept in ((996_000, True), (1_100_000, False)):
        view = make_view(loaded, models=[model], gpus=[_GPU], now_ms=now_ms)
        assert (expired_replicas(prices(view, estimates)) == []) is is_kept


@given(views())
def test_nothing_that_has_jobs_or_is_closing_goes(view: ClusterView) -> None:
    for replica in expired_replicas(prices(view)):
        assert replica.num_jobs == 0
        assert replica.state is not ReplicaState.UNLOADING


@given(views())
def test_no_model_falls_below_the_replicas_that_it_keeps(view: ClusterView) -> None:
    def ready(replicas: Iterable[Replica]) -> Counter[str]:
        serving = [replica for replica in replicas if view.takes_jobs(replica)]
        return Counter(replica.model for replica in serving if replica.state is ReplicaState.READY)

    before, gone = ready(view.replicas.values()), ready(expired_replicas(prices(view)))
    for model in view.models.values():
        assert before[model.name] - gone[model.name] >= min(before[model.name], model.min_replicas)
