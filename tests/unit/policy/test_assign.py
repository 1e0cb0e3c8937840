"""Where a waiting job goes: rules by example, and promises that hold in any cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import TypeVar

from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.cluster import Gpu, GpuId, GpuState, ModelInfo, NodeInfo, Replica, ReplicaState
from sllm_tasks.policy.decision import AssignmentPath
from sllm_tasks.policy.replica_table import ReplicaTable
from sllm_tasks.policy.view import ClusterView, WaitingJob
from tests.unit.policy.views import choose, make_model, make_replica, make_view, views, waiting_job

_FIRST, _SECOND = GpuId("node0", 0), GpuId("node1", 0)
_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_MODELS = st.sampled_from(["m", "n", "o", "unknown"])


def test_a_warm_replica_is_better_than_loading_one() -> None:
    model = make_model()
    view = make_view(make_replica("warm", _FIRST, model, num_jobs=3), models=[model], gpus=[_FIRST, _SECOND])
    decision = choose(view, waiting_job())
    assert (decision.path, decision.replica_id, decision.gpus) == (AssignmentPath.WARM, "warm", ())


def test_of_two_warm_replicas_the_one_with_fewer_jobs_is_taken() -> None:
    model = make_model()
    busy, free = make_replica("a", _FIRST, model, num_jobs=2), make_replica("b", _SECOND, model, num_jobs=1)
    view = make_view(busy, free, models=[model], gpus=[_FIRST, _SECOND])
    assert choose(view, waiting_job()).replica_id == "b"


def test_a_warm_replica_is_left_alone_when_one_of_its_gpus_takes_no_work() -> None:
    model, follower = make_model(max_replicas=1), GpuId("node0", 1)
    warm = make_replica("warm", _FIRST, model, gpus=(_FIRST, follower))
    for draining in (_FIRST, follower):
        view = make_view(warm, models=[model], gpus=[_FIRST, follower, _SECOND], draining=frozenset({draining}))
        choice = choose(view, waiting_job())
        assert (choice.replica_id, draining in choice.gpus) == (None, False)
        assert choice.gpus


def test_a_replica_that_loads_is_joined_before_another_one_is_loaded() -> None:
    model = make_model()
    loading = make_replica("loading", _FIRST, model, state=ReplicaState.LOADING, num_jobs=1)
    view = make_view(loading, models=[model], gpus=[_FIRST, _SECOND])
    assert choose(view, waiting_job()).replica_id == "loading"


def test_a_new_replica_goes_to_the_emptiest_gpu() -> None:
    model, other = make_model(), make_model("n")
    view = make_view(make_replica("other", _FIRST, other), models=[model, other], gpus=[_FIRST, _SECOND])
    assert choose(view, waiting_job()).gpus == (_SECOND,)


def test_only_nodes_that_have_the_checkpoint_load_it() -> None:
    model = make_model()
    view = make_view(models=[model], gpus=[_FIRST, _SECOND])
    nodes = {**view.nodes, "node1": replace(view.nodes["node1"], checkpoints=frozenset())}
    assert choose(replace(view, nodes=nodes), waiting_job()).gpus == (_FIRST,)


def test_the_replica_that_was_unused_longest_is_evicted() -> None:
    model, other = make_model(bytes_per_gpu=90), make_model("n", bytes_per_gpu=60)
    recent = make_replica("recent", _FIRST, other, idle_since_ms=20_000)
    old = make_replica("old", _SECOND, other, idle_since_ms=10_000)
    view = make_view(recent, old, models=[model, other], gpus=[_FIRST, _SECOND], now_ms=30_000)
    decision = choose(view, waiting_job())
    assert (decision.gpus, decision.victims) == ((_SECOND,), ("old",))


def test_a_small_old_replica_is_spared_when_evicting_a_large_one_is_needed_and_enough() -> None:
    model, other = make_model(bytes_per_gpu=60), make_model("n")
    small = make_replica("small", _FIRST, other, bytes_per_gpu=10, idle_since_ms=10)
    large = make_replica("large", _FIRST, other, bytes_per_gpu=85, idle_since_ms=20)
    view = make_view(small, large, models=[model, other], gpus=[_FIRST])
    assert choose(view, waiting_job()).victims == ("large",)


def test_a_model_at_its_most_replicas_waits_for_room_in_them() -> None:
    model = make_model(max_replicas=1)
    view = make_view(make_replica("full", _FIRST, model, num_jobs=4), models=[model], gpus=[_FIRST, _SECOND])
    decision = choose(view, waiting_job())
    assert decision.path is AssignmentPath.WAIT
    assert "max_replicas" in decision.reason


@given(views(), _MODELS)
def test_no_gpu_is_promised_more_memory_than_it_has(view: ClusterView, model_name: str) -> None:
    decision = choose(view, waiting_job(model_name))
    for gpu_id in decision.gpus:
        freed = sum(view.replicas[victim].bytes_per_gpu for victim in decision.victims)
        needed = view.models[model_name].bytes_per_gpu
        assert view.gpus[gpu_id].reserved_bytes - freed + needed <= view.gpus[gpu_id].capacity_bytes


@given(views(), _MODELS)
def test_only_idle_loaded_replicas_of_the_chosen_gpu_are_evicted(view: ClusterView, model_name: str) -> None:
    decision = choose(view, waiting_job(model_name))
    for victim in (view.replicas[victim_id] for victim_id in decision.victims):
        assert (victim.num_jobs, victim.gpus) == (0, decision.gpus)
        assert victim.state in {ReplicaState.READY, ReplicaState.DRAINING}


@given(views(), _MODELS)
def test_no_victim_could_have_been_spared(view: ClusterView, model_name: str) -> None:
    decision = choose(view, waiting_job(model_name))
    for spared in decision.victims:
        freed = sum(view.replicas[victim].bytes_per_gpu for victim in decision.victims if victim != spared)
        assert view.gpus[decision.gpus[0]].free_bytes + freed < view.models[model_name].bytes_per_gpu


@given(views(), _MODELS)
def test_a_replica_that_is_chosen_has_room_and_is_not_closing(view: ClusterView, model_name: str) -> None:
    decision = choose(view, waiting_job(model_name))
    if decision.replica_id is not None:
        replica = view.replicas[decision.replica_id]
        assert replica.model == model_name
        assert replica.state is not ReplicaState.UNLOADING
        assert replica.num_jobs < replica.max_jobs


@given(views(), _MODELS)
def test_nothing_is_loaded_while_a_replica_has_room(view: ClusterView, model_name: str) -> None:
    decision = choose(view, waiting_job(model_name))
    if decision.gpus:
        assert not any(replica.has_room for replica in view.replicas_of(model_name))
        assert view.gpus[decision.gpus[0]].state is GpuState.UP


@given(views(), _MODELS)
def test_every_decision_is_one_of_three_and_waiting_has_a_reason(view: ClusterView, model_name: str) -> None:
    decision = choose(view, waiting_job(model_name))
    assert (decision.replica_id is not None) + bool(decision.gpus) + (decision.path is AssignmentPath.WAIT) == 1
    assert (decision.path is AssignmentPath.WAIT) == bool(decision.reason)


def _shuffled(records: Mapping[_Key, _Value], random: Random) -> dict[_Key, _Value]:
    items = list(records.items())
    random.shuffle(items)
    return dict(items)


@given(views(), _MODELS, st.randoms())
def test_the_decision_does_not_depend_on_the_order_of_the_records(
    view: ClusterView, model_name: str, random: Random
) -> None:
    other = replace(
        view, gpus=_shuffled(view.gpus, random), replicas=ReplicaTable(_shuffled(view.replicas, random).values())
    )
    assert choose(other, waiting_job(model_name)) == choose(view, waiting_job(model_name))


@given(views(), _MODELS)
def test_the_view_after_a_decision_keeps_its_books(view: ClusterView, model_name: str) -> None:
    decision = choose(view, waiting_job(model_name))
    if decision.gpus:
        model = view.models[model_name]
        new = make_replica("new", decision.gpus[0], model, state=ReplicaState.LOADING, num_jobs=1)
        after = view.without_replicas(decision.victims).with_replica(new)
    elif decision.replica_id is not None:
        after = view.with_jobs_on(decision.replica_id)
        assert after.replicas[decision.replica_id].num_jobs == view.replicas[decision.replica_id].num_jobs + 1
    else:
        return
    for gpu in after.gpus.values():
        held = [replica for replica in after.replicas.values() if gpu.id in replica.gpus]
        promised = sum(replica.bytes_per_gpu for replica in held if replica.state is not ReplicaState.UNLOADING)
        assert gpu.reserved_bytes == promised <= gpu.capacity_bytes


def test_a_job_runs_on_no_replica_that_is_too_small_for_it_and_loads_the_shape_it_was_accepted_for() -> None:
    model = make_model(bytes_per_gpu=30, context=32)
    view = make_view(make_replica("small", _FIRST, model), models=[model], gpus=[_FIRST])
    larger = replace(model.shape, context=64, bytes_per_gpu=60)
    job = replace(waiting_job(), checkpoint=model.checkpoint, shape=larger)
    assert choose(view, job).gpus == (_FIRST,)
    assert view.model_of(job).shape == larger
    too_large = replace(job, shape=replace(larger, bytes_per_gpu=101))
    assert choose(view, too_large).path is AssignmentPath.WAIT
    small_enough = replace(job, shape=replace(larger, context=32))
    assert choose(view, small_enough).replica_id == "small"


def test_a_job_keeps_the_checkpoint_it_was_accepted_for() -> None:
    newer = Replica(
        id="newer",
        model="m",
        checkpoint="new",
        gpus=(GpuId("n", 0),),
        state=ReplicaState.READY,
        bytes_per_gpu=1,
        max_jobs=8,
        engine="steploop",
        context=64,
    )
    model = ModelInfo(name="m", checkpoint="new", num_gpus=1, bytes_per_gpu=1, max_jobs=8, context=64, keep_alive_s=60)
    gpu = Gpu(id=GpuId("n", 0), worker_id="w", device="cpu", capacity_bytes=10, reserved_bytes=1)
    node = NodeInfo(name="n", checkpoints=frozenset({"new", "old"}))
    view = ClusterView(
        now_ms=1, gpus={gpu.id: gpu}, replicas=ReplicaTable([newer]), nodes={"n": node}, models={"m": model}
    )
    accepted_before = WaitingJob(id="job_1", model="m", attempt=1, checkpoint="old")
    assert choose(view, accepted_before).path is AssignmentPath.LOAD_SSD
    accepted_after = WaitingJob(id="job_2", model="m", attempt=1, checkpoint="new")
    assert choose(view, accepted_after).replica_id == "newer"


def test_a_gpu_never_loads_a_second_copy_of_what_it_holds() -> None:
    model = make_model(bytes_per_gpu=20)
    full = make_replica("full", _FIRST, model, num_jobs=4)
    decision = choose(make_view(full, models=[model], gpus=[_FIRST]), waiting_job())
    assert decision.path is AssignmentPath.WAIT
    assert "full" in decision.reason
    assert choose(make_view(full, models=[model], gpus=[_FIRST, _SECOND]), waiting_job()).gpus == (_SECOND,)
