"""Gpus that running jobs leave for a waiting one: it waits as long as that is best; others are not promised them."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.cluster import GpuId, Hold, Replica, ReplicaState
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.assign import assign
from sllm_tasks.policy.decision import Assignment, AssignmentPath
from sllm_tasks.policy.holds import without_held
from sllm_tasks.policy.options import MOVING_REASON
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, RunningJob, WaitingJob
from tests.unit.policy.views import make_model, make_replica, make_view, views, waiting_job

_FIRST, _SECOND, _OTHER = GpuId("node", 0), GpuId("node", 1), GpuId("other", 0)
_A = make_model("a", bytes_per_gpu=60)
_B = make_model("b", bytes_per_gpu=60)
_PAIR = make_model("pair", bytes_per_gpu=60, num_gpus=2)
_HOLD = Hold(gpus=(_FIRST,), until_ms=90_000)


def cluster(*replicas: Replica, gpus: tuple[GpuId, ...], **more: object) -> ClusterView:
    """Jobs have 2,000 tokens to go, unless `more` says otherwise of those of a replica."""
    view = make_view(*replicas, models=[_A, _B, _PAIR], gpus=list(gpus), now_ms=60_000)
    running = {replica.id: (running_job(replica, **more),) for replica in replicas if replica.num_jobs}
    return replace(view, running=running)


def running_job(replica: Replica, **more: object) -> RunningJob:
    values = {"prompt_tokens": 10, "max_tokens": 4_000, "started_ms": 0, "num_tokens": 1, **more}
    return RunningJob(id=f"{replica.id}-0", model=replica.model, **values)  # type: ignore[arg-type]


def decide(view: ClusterView, job: WaitingJob) -> Assignment:
    return assign(view, job, LearnedEstimates(), PolicySettings()).choice


def leaving(**more: object) -> Replica:
    return make_replica("leaving", _FIRST, _A, state=ReplicaState.DRAINING, **{"num_jobs": 1, **more})


def test_a_job_waits_for_gpus_that_others_are_leaving_and_moves_nobody_else() -> None:
    target = make_replica("target", _OTHER, _A, num_jobs=1)
    view = cluster(leaving(), target, gpus=(_FIRST, _OTHER), moves_to="target", may_move=False)
    choice = decide(view, replace(waiting_job("b"), hold=_HOLD))
    assert (choice.path, choice.reason) == (AssignmentPath.WAIT, MOVING_REASON)


def test_a_job_does_not_wait_for_its_gpus_when_others_are_free() -> None:
    view = cluster(leaving(), gpus=(_FIRST, _OTHER), may_move=False)
    choice = decide(view, replace(waiting_job("b"), hold=_HOLD))
    assert choice.gpus == (_OTHER,)


def test_gpus_that_have_been_left_are_taken() -> None:
    view = cluster(leaving(num_jobs=0), gpus=(_FIRST,))
    choice = decide(view, replace(waiting_job("b"), hold=_HOLD))
    assert (choice.gpus, choice.victims) == ((_FIRST,), ("leaving",))


def test_what_leaves_held_gpus_is_nobody_elses_victim() -> None:
    view = cluster(leaving(num_jobs=0), gpus=(_FIRST,))
    seen = without_held(view, replace(waiting_job("b"), hold=_HOLD))
    assert seen.gpus[_FIRST].free_bytes == 100 - _B.bytes_per_gpu
    assert decide(seen, waiting_job("a")).path is AssignmentPath.WAIT


def test_memory_of_what_leaves_held_gpus_is_not_free_before_it_has_left() -> None:
    view = cluster(leaving(bytes_per_gpu=90), gpus=(_FIRST,))
    seen = without_held(view, replace(waiting_job("b"), hold=_HOLD))
    assert seen.gpus[_FIRST].free_bytes == 10
    small = replace(view, models={**view.models, "a": replace(_A, bytes_per_gpu=30)})
    assert decide(without_held(small, replace(waiting_job("b"), hold=_HOLD)), waiting_job("a")).gpus == ()


def test_of_what_is_free_on_a_held_gpu_others_may_have_what_the_holder_does_not_need_beyond_what_leaves() -> None:
    view = cluster(leaving(bytes_per_gpu=20), gpus=(_FIRST,))
    seen = without_held(view, replace(waiting_job("b"), hold=_HOLD))
    assert seen.gpus[_FIRST].free_bytes == 80 - (60 - 20)


def test_what_leaves_a_held_gpu_keeps_its_memory_on_its_other_gpus_too() -> None:
    group = make_replica(
        "group", _FIRST, _PAIR, gpus=(_FIRST, _SECOND), state=ReplicaState.DRAINING, num_jobs=1, bytes_per_gpu=90
    )
    seen = without_held(cluster(group, gpus=(_FIRST, _SECOND)), replace(waiting_job("b"), hold=_HOLD))
    assert [seen.gpus[gpu].free_bytes for gpu in (_FIRST, _SECOND)] == [10, 10]
    assert decide(seen, waiting_job("a")).path is AssignmentPath.WAIT


@given(views(), st.lists(st.tuples(st.sampled_from("mno"), st.integers(0, 2)), max_size=3))
def test_a_hold_promises_others_nothing_that_is_not_free(view: ClusterView, holds: list[tuple[str, int]]) -> None:
    seen = view
    for model, number in holds:
        hold = Hold(gpus=(sorted(view.gpus)[number % len(view.gpus)],), until_ms=90_000)
        seen = without_held(seen, replace(waiting_job(model), hold=hold))
    assert all(seen.gpus[gpu].free_bytes <= view.gpus[gpu].free_bytes for gpu in view.gpus)
    assert seen.replicas.keys() <= view.replicas.keys()


def test_a_model_over_two_gpus_gets_one_that_is_free_and_one_whose_jobs_move() -> None:
    busy = make_replica("busy", _FIRST, _A, num_jobs=1)
    choice = decide(cluster(busy, gpus=(_FIRST, _SECOND, _OTHER)), waiting_job("pair"))
    assert (choice.path, choice.gpus) == (AssignmentPath.MIGRATE, (_FIRST, _SECOND))
    assert [move.gpus for move in choice.moves] == [(_OTHER,)]


def test_a_replica_whose_jobs_are_not_known_is_asked_for() -> None:
    busy = make_replica("busy", _FIRST, _A, num_jobs=1)
    view = replace(cluster(busy, gpus=(_FIRST, _OTHER)), running={})
    filler = make_replica("filler", _OTHER, _B, num_jobs=4, state=ReplicaState.DRAINING, bytes_per_gpu=90)
    decision = assign(view.with_replica(filler), waiting_job("b"), LearnedEstimates(), PolicySettings())
    assert set(decision.unknown) == {"busy", "filler"}
