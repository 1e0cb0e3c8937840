"""Replicas that are loaded although no job waits for them: which, where, and at whose expense."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.cluster import GpuId, ModelInfo, ReplicaState
from sllm_tasks.estimators.facts import ArrivalFact
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.effects import begin_load
from sllm_tasks.policy.preload import Preload, next_preload
from sllm_tasks.policy.view import ClusterView
from tests.unit.policy.views import make_model, make_replica, make_view, prices, views

_GPUS = [GpuId("node0", 0), GpuId("node1", 0)]
_GB = 1_000_000_000


def _next(
    view: ClusterView, estimates: LearnedEstimates | None = None, *, anybody_waits: bool = False, may_try: bool = True
) -> Preload | None:
    return next_preload(prices(view, estimates), anybody_waits=anybody_waits, may_try=lambda _model, _gpu: may_try)


def _clockwork(model: str = "m", gap_s: float = 100.0) -> LearnedEstimates:
    return LearnedEstimates(ArrivalFact(model=model, at_s=gap_s * number) for number in range(11))


def _adaptive(name: str = "m") -> ModelInfo:
    return make_model(name, keep_alive_s=None, checkpoint_bytes=2 * _GB)


def test_least_replicas_are_loaded_without_a_job_one_per_gpu() -> None:
    model = make_model(min_replicas=2)
    view = make_view(models=[model], gpus=_GPUS)
    for number in range(2):
        found = _next(view, anybody_waits=True)
        assert found is not None
        view = begin_load(view, found.model, found.place.gpus, found.place.victims, f"replica_{number}")
    assert {replica.leader for replica in view.replicas.values()} == set(_GPUS)
    assert _next(view) is None


def test_what_was_deployed_before_is_no_least_replica_of_what_is_deployed_now() -> None:
    former = make_replica("former", _GPUS[0], make_model(max_jobs=2), num_jobs=1)
    found = _next(make_view(former, models=[make_model(min_replicas=1)], gpus=_GPUS))
    assert found is not None
    assert found.place.gpus == (_GPUS[1],)


def test_a_replica_on_a_gpu_that_takes_no_work_is_no_least_replica() -> None:
    model = make_model(min_replicas=1, max_replicas=1)
    view = make_view(make_replica("held", _GPUS[0], model), models=[model], gpus=_GPUS, draining=frozenset({_GPUS[0]}))
    found = _next(view)
    assert found is not None
    assert found.place.gpus == (_GPUS[1],)


def test_a_load_that_came_to_nothing_is_not_repeated_at_once() -> None:
    assert _next(make_view(models=[make_model(min_replicas=1)], gpus=_GPUS), may_try=False) is None


def test_after_a_load_that_came_to_nothing_another_gpu_of_the_node_is_tried() -> None:
    gpus = [GpuId("node0", index) for index in (0, 1)]
    now = prices(make_view(models=[make_model(min_replicas=1)], gpus=gpus))
    for failed, other in (gpus, gpus[::-1]):
        found = next_preload(now, anybody_waits=False, may_try=lambda _model, gpu, failed=failed: gpu != failed)
        assert found is not None
        assert found.place.gpus == (other,)


def test_a_model_is_loaded_shortly_before_its_next_job_is_due_and_not_earlier() -> None:
    for now_ms, is_due in ((1_020_000, False), (1_090_000, False), (1_097_500, True), (1_400_000, False)):
        view = make_view(models=[_adaptive()], gpus=_GPUS, now_ms=now_ms)
        assert (_next(view, _clockwork()) is not None) is is_due


def test_nothing_is_loaded_by_forecast_while_jobs_wait_or_beside_another_load() -> None:
    view = make_view(models=[_adaptive()], gpus=_GPUS[:1], now_ms=1_098_000)
    assert _next(view, _clockwork()) is not None
    assert _next(view, _clockwork(), anybody_waits=True) is None
    other = begin_load(view, make_model("other", bytes_per_gpu=10), (_GPUS[0],), (), "other")
    assert _next(replace(other, models=view.models), _clockwork()) is None


def test_a_forecast_evicts_only_what_is_less_likely_to_be_wanted() -> None:
    wanted, other = _adaptive(), make_model("other", bytes_per_gpu=80)
    for idle_since_ms, victims in ((0, ("held",)), (1_090_000, None)):
        held = make_replica("held", _GPUS[0], other, idle_since_ms=idle_since_ms)
        view = make_view(held, models=[wanted, other], gpus=_GPUS[:1], now_ms=1_098_000)
        found = _next(view, _clockwork())
        assert (found.place.victims if found else None) == victims


def test_memory_that_waiting_jobs_are_promised_is_left_to_them() -> None:
    draining = make_replica("draining", _GPUS[0], make_model("other"), state=ReplicaState.DRAINING, num_jobs=1)
    assert _next(make_view(draining, models=[make_model(min_replicas=1)], gpus=_GPUS[:1])) is None


@given(views(), st.booleans())
def test_no_preload_evicts_what_is_as_likely_wanted_or_exceeds_the_most_replicas(
    view: ClusterView, anybody_waits: bool
) -> None:
    now = prices(view)
    found = _next(view, anybody_waits=anybody_waits)
    if found is None:
        return
    assert all(now.wanted(view.replicas[victim]) < 1 for victim in found.place.victims)
    assert len(view.replicas_of(found.model.name)) < found.model.max_replicas
    assert all(view.replicas[victim].num_jobs == 0 for victim in found.place.victims)
