"""Running jobs are moved when that starts another one sooner, to where nobody else was promised the room."""

from __future__ import annotations

from dataclasses import replace

from sllm_tasks.cluster import GpuId, ModelInfo, Replica, Tier
from sllm_tasks.estimators.facts import JobFact, LoadFact
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.assign import assign
from sllm_tasks.policy.decision import AssignmentPath, Decision
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, RunningJob
from tests.unit.policy.views import make_model, make_replica, make_view, waiting_job

_GB = 10**9
_HERE, _THERE, _THIRD = GpuId("here", 0), GpuId("there", 0), GpuId("third", 0)
_A = make_model("a", bytes_per_gpu=60, checkpoint_bytes=10 * _GB)
_B = make_model("b", bytes_per_gpu=60, checkpoint_bytes=10 * _GB)
_LARGE = make_model("large", bytes_per_gpu=95, checkpoint_bytes=10 * _GB)


def estimates() -> LearnedEstimates:
    """SSD 1 GB/s, DRAM 20 GB/s, a prefill of 1 ms and a step of 50 ms per token, outputs of 1,000 tokens."""
    facts = [
        LoadFact(node=node, tier=tier, num_bytes=gb * _GB, seconds=gb / rate)
        for node in ("here", "there", "third")
        for tier, rate in ((Tier.SSD, 1.0), (Tier.DRAM, 20.0))
        for gb in (5, 10, 20, 40)
        for _ in range(4)
    ]
    jobs = [
        JobFact(model=model, prompt_tokens=prompt, completion_tokens=1_000, first_token_s=prompt / 1000, token_s=0.05)
        for model in "ab"
        for prompt in range(100, 1_000, 100)
    ]
    return LearnedEstimates([*facts, *jobs])


def running(replica: Replica, num_tokens: int) -> dict[str, tuple[RunningJob, ...]]:
    jobs = tuple(
        RunningJob(
            id=f"{replica.id}-{index}", model=replica.model, prompt_tokens=100, max_tokens=2_000, started_ms=0,
            num_tokens=num_tokens,
        )
        for index in range(replica.num_jobs)
    )  # fmt: skip
    return {replica.id: jobs}


def cluster(*replicas: Replica, in_dram: dict[str, ModelInfo], gpus: list[GpuId], num_tokens: int = 200) -> ClusterView:
    view = make_view(*replicas, models=[_A, _B, _LARGE], gpus=gpus, now_ms=60_000)
    nodes = {
        name: replace(node, in_dram=frozenset({in_dram[name].checkpoint} if name in in_dram else ()))
        for name, node in view.nodes.items()
    }
    known = {id_: jobs for replica in replicas for id_, jobs in running(replica, num_tokens).items()}
    return replace(view, nodes=nodes, running=known)


def decide(view: ClusterView, *, migrate: bool = True) -> Decision:
    return assign(view, waiting_job("b"), estimates(), PolicySettings(migrate=migrate))


def test_the_papers_example_both_start_where_their_checkpoints_are_in_memory() -> None:
    busy = make_replica("busy", _HERE, _A, num_jobs=1)
    view = cluster(busy, in_dram={"here": _B, "there": _A}, gpus=[_HERE, _THERE])
    decision = decide(view)
    assert (decision.choice.path, decision.choice.gpus) == (AssignmentPath.MIGRATE, (_HERE,))
    (move,) = decision.choice.moves
    assert (move.job_id, move.to_replica, move.gpus) == ("busy-0", None, (_THERE,))
    assert decision.start is not None
    # A from DRAM, its 300 tokens read there, B from DRAM, its first token: far from the 10 s of the SSD.
    assert 1.0 < decision.start.seconds < 2.0


def test_without_migration_the_job_loads_from_the_slower_tier() -> None:
    busy = make_replica("busy", _HERE, _A, num_jobs=1)
    view = cluster(busy, in_dram={"here": _B, "there": _A}, gpus=[_HERE, _THERE])
    choice = decide(view, migrate=False).choice
    assert (choice.path, choice.gpus) == (AssignmentPath.LOAD_SSD, (_THERE,))


def test_jobs_move_to_a_replica_that_has_room_rather_than_to_one_that_is_loaded_for_them() -> None:
    busy = make_replica("busy", _HERE, _A, num_jobs=1)
    other = make_replica("other", _THIRD, _A, num_jobs=1)
    view = cluster(busy, other, in_dram={"here": _B}, gpus=[_HERE, _THERE, _THIRD])
    choice = decide(view).choice
    assert choice.path is AssignmentPath.MIGRATE
    assert [move.to_replica for move in choice.moves] == ["other"]


def test_a_job_that_is_about_to_end_is_waited_for() -> None:
    busy = make_replica("busy", _HERE, _A, num_jobs=1)
    view = cluster(busy, in_dram={"here": _B, "there": _A}, gpus=[_HERE, _THERE], num_tokens=999)
    facts = [JobFact(model="a", prompt_tokens=1, completion_tokens=1_000, token_s=0.05) for _ in range(64)]
    learned = estimates()
    for fact in facts:
        learned.learn(fact)
    choice = assign(view, waiting_job("b"), learned, PolicySettings()).choice
    assert choice.path is AssignmentPath.WAIT


def test_two_replicas_are_not_moved_into_the_same_free_memory() -> None:
    one = make_replica("one", _HERE, _A, num_jobs=1, bytes_per_gpu=50)
    two = make_replica("two", _HERE, _B, num_jobs=1, bytes_per_gpu=50)
    filler = make_replica("filler", _THERE, _LARGE, num_jobs=4, bytes_per_gpu=40)
    job = waiting_job("large")
    view = cluster(one, two, filler, in_dram={}, gpus=[_HERE, _THERE])
    assert assign(view, job, estimates(), PolicySettings()).choice.path is AssignmentPath.WAIT
    one_more = cluster(one, two, filler, in_dram={}, gpus=[_HERE, _THERE, _THIRD])
    only_b = replace(one_more.nodes["third"], checkpoints=frozenset({_B.checkpoint}))
    both_fit = replace(one_more, nodes={**one_more.nodes, "third": only_b})
    choice = assign(both_fit, job, estimates(), PolicySettings()).choice
    assert sorted((move.job_id, move.gpus) for move in choice.moves) == [("one-0", (_THERE,)), ("two-0", (_THIRD,))]


def test_jobs_that_nobody_looked_at_are_not_moved() -> None:
    busy = make_replica("busy", _HERE, _A, num_jobs=1)
    view = replace(cluster(busy, in_dram={"here": _B, "there": _A}, gpus=[_HERE, _THERE]), running={})
    assert decide(view).choice.path is AssignmentPath.LOAD_SSD
