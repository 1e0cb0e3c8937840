"""What options cost, by example: queues of loaders, slots that become free, replicas over several gpus."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sllm_tasks.cluster import GpuId, ReplicaState, Tier
from sllm_tasks.estimators.facts import ArrivalFact, Fact, JobFact, LoadFact
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.assign import assign, explain
from sllm_tasks.policy.decision import AssignmentPath, Candidate, Decision
from sllm_tasks.policy.effects import carry_out
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, LoadUnderWay, RunningJob, WaitingJob
from tests.unit.policy.views import make_model, make_replica, make_view, waiting_job

_GB = 10**9
_A0, _A1, _B0, _B1 = GpuId("a", 0), GpuId("a", 1), GpuId("b", 0), GpuId("b", 1)
_GPUS = [_A0, _A1, _B0, _B1]
_M = make_model("m", bytes_per_gpu=60, checkpoint_bytes=10 * _GB, max_jobs=2)
_N = make_model("n", bytes_per_gpu=60, checkpoint_bytes=20 * _GB)


def learned(*more: Fact) -> LearnedEstimates:
    """1 GB/s from the SSDs, 10 GB/s from DRAM, 0.1 s per token, a first token after 0.1 s."""
    loads = [
        LoadFact(node=node, tier=tier, num_bytes=gb * _GB, seconds=gb / rate)
        for node in "ab"
        for tier, rate in ((Tier.SSD, 1.0), (Tier.DRAM, 10.0))
        for gb in (5, 10, 20, 40)
        for _ in range(4)
    ]
    jobs = [
        JobFact(model=name, prompt_tokens=10, completion_tokens=100, first_token_s=0.1, token_s=0.1)
        for name in "mn"
        for _ in range(8)
    ]
    return LearnedEstimates([*loads, *jobs, *more])


def decide(view: ClusterView, job: WaitingJob | None = None, *more: Fact, **settings: bool) -> Decision:
    policy = PolicySettings(**{"migrate": False, "load_remote": False, **settings})
    return assign(view, job or replace(waiting_job(), prompt_tokens=10), learned(*more), policy)


def under_way(replica_id: str, gpu: GpuId, gb: int, tier: Tier = Tier.SSD) -> LoadUnderWay:
    return LoadUnderWay(replica_id=replica_id, gpus=(gpu,), tier=tier, remaining_bytes=gb * _GB)


def on_node(decision: Decision, node: str) -> Candidate:
    return next(candidate for candidate in decision.candidates if candidate.assignment.gpus[0].node == node)


def test_a_load_goes_where_the_checkpoint_is_in_memory() -> None:
    view = make_view(models=[_M], gpus=_GPUS)
    in_dram = replace(view.nodes["b"], in_dram=frozenset({_M.checkpoint}))
    decision = decide(replace(view, nodes={**view.nodes, "b": in_dram}))
    assert (decision.choice.path, decision.choice.gpus) == (AssignmentPath.LOAD_DRAM, (_B0,))
    assert decision.start is not None
    assert decision.start.seconds == pytest.approx(1.1, rel=0.01)


def test_what_waits_for_the_same_disk_and_is_smaller_goes_first() -> None:
    view = replace(make_view(models=[_M], gpus=_GPUS), loads={"a": (under_way("x", _A1, 5),)})
    decision = decide(view)
    assert decision.choice.gpus == (_B0,)
    assert on_node(decision, "a").start.seconds == pytest.approx(15.1, rel=0.01)


def test_a_load_that_goes_before_a_larger_one_pays_for_that() -> None:
    view = replace(make_view(models=[_M], gpus=_GPUS), loads={"a": (under_way("x", _A1, 50),)})
    candidate = on_node(decide(view), "a")
    assert candidate.start.seconds == pytest.approx(10.1, rel=0.01)
    assert candidate.others_s == pytest.approx(10.0, rel=0.01)


def test_loads_from_memory_do_not_wait_for_the_disk_but_for_their_worker() -> None:
    view = make_view(models=[_M], gpus=[_A0, _A1])
    nodes = {"a": replace(view.nodes["a"], in_dram=frozenset({_M.checkpoint}))}
    view = replace(view, nodes=nodes, loads={"a": (under_way("x", _A0, 20),)})
    decision = decide(view)
    assert decision.choice.gpus == (_A1,)
    assert decision.start is not None
    assert decision.start.seconds == pytest.approx(1.1, rel=0.01)


def test_a_second_decision_finds_the_loader_taken_by_the_first() -> None:
    view = make_view(models=[_M, _N], gpus=_GPUS)
    first = decide(view).choice
    after = carry_out(view, waiting_job(), first, lambda: "new")
    second = decide(after, waiting_job("n")).choice
    assert {first.gpus[0].node, second.gpus[0].node} == {"a", "b"}


def test_the_model_that_is_wanted_soon_is_kept_and_the_other_evicted() -> None:
    large = make_model("large", bytes_per_gpu=90)
    wanted, other = make_replica("wanted", _A0, _M, idle_since_ms=0), make_replica("other", _B0, _N, idle_since_ms=500)
    view = make_view(wanted, other, models=[large, _M, _N], gpus=[_A0, _B0], now_ms=1_000)
    arrivals = [ArrivalFact(model="m", at_s=float(second)) for second in range(20)]
    rare = [ArrivalFact(model="n", at_s=3600.0 * hour) for hour in range(20)]
    assert decide(view, waiting_job("large"), *arrivals, *rare).choice.victims == ("other",)


def test_a_replica_that_its_operator_wants_kept_is_dear() -> None:
    large, kept = make_model("large", bytes_per_gpu=90), replace(_M, min_replicas=1)
    first, other = make_replica("kept", _A0, kept, idle_since_ms=0), make_replica("other", _B0, _N, idle_since_ms=0)
    twin = replace(_N, checkpoint_bytes=kept.checkpoint_bytes)
    view = make_view(first, other, models=[large, kept, twin], gpus=[_A0, _B0], now_ms=60_000)
    assert decide(view, waiting_job("large")).choice.victims == ("other",)


def full(gpu: GpuId, *tokens_left: int) -> tuple[ClusterView, str]:
    """A replica of `m` whose jobs have so many tokens left."""
    replica = make_replica("full", gpu, _M, num_jobs=2)
    jobs = tuple(
        RunningJob(id=str(left), model="m", prompt_tokens=10, max_tokens=100, started_ms=0, num_tokens=100 - left)
        for left in tokens_left
    )
    view = make_view(replica, models=[_M], gpus=_GPUS)
    return replace(view, running={"full": jobs}), replica.id


def test_a_slot_that_is_free_soon_is_waited_for() -> None:
    view, _ = full(_A0, 20, 90)
    decision = decide(view)
    assert decision.choice.path is AssignmentPath.WAIT
    assert decision.start is not None
    assert decision.start.seconds == pytest.approx(2.1, rel=0.05)


def test_another_replica_is_loaded_when_waiting_costs_more() -> None:
    model = replace(_M, checkpoint_bytes=_GB)
    view, _ = full(_A0, 80, 90)
    decision = decide(replace(view, models={"m": model}))
    assert (decision.choice.path, decision.choice.gpus) == (AssignmentPath.LOAD_SSD, (_A1,))


def test_those_that_come_before_take_the_slots_that_are_free_soon() -> None:
    view, _ = full(_A0, 20, 90)
    assert decide(replace(view, num_waiting={"m": 1})).choice.path is AssignmentPath.WAIT
    assert decide(replace(view, num_waiting={"m": 3})).choice.path is AssignmentPath.LOAD_SSD


def test_a_wait_that_was_predicted_wrongly_does_not_last() -> None:
    view, _ = full(_A0, 20, 90)
    job = replace(waiting_job(), prompt_tokens=10, waits_since_ms=1)
    assert decide(replace(view, now_ms=5_000), job).choice.path is AssignmentPath.WAIT
    assert decide(replace(view, now_ms=15_000), job).choice.path is AssignmentPath.LOAD_SSD


def test_a_replica_over_two_gpus_takes_two_of_one_node() -> None:
    pair = make_model("pair", bytes_per_gpu=60, num_gpus=2)
    busy = make_replica("busy", _A0, _M, num_jobs=1)
    view = make_view(busy, models=[pair, _M], gpus=_GPUS)
    assert decide(view, waiting_job("pair")).choice.gpus == (_B0, _B1)


def test_a_victim_over_two_gpus_is_evicted_once_and_frees_both() -> None:
    pair = make_model("pair", bytes_per_gpu=60, num_gpus=2)
    old = make_replica("old", _A0, make_model("o", num_gpus=2), gpus=(_A0, _A1), bytes_per_gpu=90)
    view = make_view(old, models=[pair, make_model("o", num_gpus=2)], gpus=[_A0, _A1], now_ms=1_000)
    choice = decide(view, waiting_job("pair")).choice
    assert (choice.gpus, choice.victims) == ((_A0, _A1), ("old",))
    after = carry_out(view, waiting_job("pair"), choice, lambda: "new")
    assert {gpu.reserved_bytes for gpu in after.gpus.values()} == {60}


def test_a_gpu_that_is_not_shared_is_emptied() -> None:
    small = make_model("small", bytes_per_gpu=10)
    view = make_view(make_replica("idle", _A0, _M), models=[small, _M], gpus=[_A0], now_ms=1_000)
    assert decide(view, waiting_job("small")).choice.victims == ()
    assert decide(view, waiting_job("small"), share_gpus=False).choice.victims == ("idle",)


def test_what_fits_on_no_node_says_so() -> None:
    huge = make_model("huge", bytes_per_gpu=101)
    choice = decide(make_view(models=[huge], gpus=_GPUS), waiting_job("huge")).choice
    assert choice.fits_nowhere
    triple = make_model("triple", num_gpus=3)
    assert decide(make_view(models=[triple], gpus=_GPUS), waiting_job("triple")).choice.fits_nowhere
    busy = make_replica("busy", _A0, _N, num_jobs=1)
    large = make_model("large", bytes_per_gpu=100)
    assert not decide(make_view(busy, models=[large, _N], gpus=[_A0]), waiting_job("large")).choice.fits_nowhere


def test_a_node_that_lacks_the_checkpoint_loads_it_only_where_that_is_possible() -> None:
    view = make_view(models=[_M], gpus=[_A0, _B0])
    nodes = {
        "a": replace(view.nodes["a"], checkpoints=frozenset()),
        "b": replace(view.nodes["b"], url="http://b"),
    }
    draining = replace(view.gpus[_B0], capacity_bytes=10)
    view = replace(view, nodes=nodes, gpus={**view.gpus, _B0: draining})
    assert decide(view).choice.path is AssignmentPath.WAIT
    assert decide(view, load_remote=True).choice.path is AssignmentPath.LOAD_REMOTE


def test_an_explanation_prices_what_a_warm_replica_makes_superfluous() -> None:
    view = make_view(make_replica("warm", _A0, _M), models=[_M], gpus=_GPUS)
    policy = PolicySettings(migrate=False)
    decision = explain(view, waiting_job(), learned(), policy)
    assert decision.choice.path is AssignmentPath.WARM
    assert [candidate.assignment.path for candidate in decision.candidates][:2] == ["warm", "load_ssd"]
    assert len(assign(view, waiting_job(), learned(), policy).candidates) == 1


def test_a_load_that_is_joined_is_called_what_it_is() -> None:
    loading = make_replica("loading", _A0, _M, state=ReplicaState.LOADING, num_jobs=1)
    view = make_view(loading, models=[_M], gpus=[_A0])
    view = replace(view, loads={"a": (under_way("loading", _A0, 10, Tier.DRAM),)})
    choice = decide(view).choice
    assert (choice.path, choice.replica_id) == (AssignmentPath.LOAD_DRAM, "loading")


def joining(num_jobs: int, age_s: float, *, before_s: float | None = None) -> Candidate:
    """The option of a job of `m` to join a load of 10 s, behind one of 5 s if that is said to go on."""
    loading = make_replica("loading", _A0, replace(_M, max_jobs=8), state=ReplicaState.LOADING, num_jobs=num_jobs)
    loads = [replace(under_way("loading", _A0, 10), age_s=age_s)]
    if before_s is not None:
        loads.insert(0, replace(under_way("before", _A0, 5), age_s=before_s))
    view = replace(make_view(loading, models=[_M], gpus=[_A0]), loads={"a": tuple(loads)})
    (candidate,) = decide(view).candidates
    assert candidate.assignment.replica_id == "loading"
    return candidate


def test_who_joins_a_load_waits_for_the_rest_of_it() -> None:
    assert joining(0, age_s=0).start.seconds == pytest.approx(10.1, rel=0.01)
    assert joining(0, age_s=4).start.seconds == pytest.approx(6.1, rel=0.01)
    assert joining(0, age_s=60).start.seconds == pytest.approx(0.1, rel=0.01)
    assert joining(0, age_s=0, before_s=3).start.seconds == pytest.approx(12.1, rel=0.01)


def test_prompts_that_are_read_before_are_predicted_and_not_compared() -> None:
    alone, third = joining(0, age_s=4), joining(2, age_s=4)
    assert third.start.seconds == pytest.approx(6.3, rel=0.01)
    assert third.price_s == pytest.approx(alone.price_s)


def test_only_the_best_few_candidates_are_kept() -> None:
    gpus = [GpuId(f"node{index}", 0) for index in range(20)]
    decision = decide(make_view(models=[_M], gpus=gpus))
    assert len(decision.candidates) == PolicySettings().max_candidates
    assert decision.candidates[0].assignment == decision.choice
