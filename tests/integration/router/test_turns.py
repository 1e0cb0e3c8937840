"""Passes of the router: whose turn it is, what holds a job back, and what a pass costs when thousands wait."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sllm_tasks.cluster import ReplicaState
from sllm_tasks.errors import UnavailableError
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.keys import ensure_tenant
from sllm_tasks.ledger.queues import pause_queue, resume_queue
from sllm_tasks.ledger.tables import TenantRow
from sllm_tasks.router.snapshot import Snapshot
from tests.integration.livestate.world import GPU, SHAPE, SUCCEEDED, WORKER, World, job_spec, replica_order
from tests.integration.router.conftest import RouterWorld


def submit(routed: RouterWorld, job_id: str, tenant: str = "flood", **changes: object) -> str:
    values = {"tenant": tenant, "created_ms": routed.live.now_ms(), **changes}
    routed.live.jobs.create(job_spec(job_id, **values), fast_path=False)
    return job_id


def has_waited(routed: RouterWorld, job_id: str, since_ms: int = 1) -> None:
    routed.world.redis.hset(f"sllm:job:{job_id}", "waits_since_ms", since_ms)


def oldest_ms(routed: RouterWorld, tenant: str = "flood") -> int:
    """Since when, by the router, the jobs of a tenant wait for `m`."""
    return routed.router._waiting.queues["m"][tenant].oldest_ms


def test_a_newcomers_job_goes_before_those_of_a_tenant_that_floods(routed: RouterWorld) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order(slots=2))
    flood = [submit(routed, f"flood_{i:02}") for i in range(50)]
    other = submit(routed, "other", "other")
    routed.router.run_pass()
    assert routed.placed(other, *flood) == ["other", "flood_00"]


def test_tenants_go_on_taking_turns_from_pass_to_pass(routed: RouterWorld) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order(slots=1))
    jobs = [submit(routed, f"{tenant}_{i}", tenant) for tenant in ("flood", "other") for i in range(4)]
    order = []
    for _ in jobs:
        routed.router.run_pass()
        (job_id,) = routed.placed(*jobs)
        order.append(job_id.partition("_")[0])
        routed.live.jobs.finish(routed.world.claim(job_id), SUCCEEDED)
        routed.live.jobs.end(job_id, JobStatus.SUCCEEDED, {})
    assert {order[i] for i in range(2)} == {order[i] for i in range(2, 4)} == {"flood", "other"}


def test_what_a_job_did_not_produce_is_given_back_to_its_tenant(routed: RouterWorld) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order())
    submit(routed, "job_1")
    routed.router.run_pass()
    spec = job_spec()
    assert routed.live.queues.look().served == {"flood": len(spec.prompt_ids) + spec.params.max_tokens}
    claim = routed.world.claim()
    routed.world.append(claim, 0, 1)
    assert routed.live.queues.look().running == {"flood": 1}
    routed.live.jobs.finish(claim, SUCCEEDED)
    room = routed.live.queues.look()
    assert (room.served, room.running) == ({"flood": len(spec.prompt_ids) + 2}, {"flood": 0})


def test_a_paused_queue_holds_its_jobs_and_says_so_until_it_is_resumed(routed: RouterWorld) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order())
    with routed.ledger.transaction() as session:
        pause_queue(session, "m", by="key", now=datetime.now(UTC))
    job_id = submit(routed, "job_1")
    routed.router.run_pass()
    assert routed.placed(job_id) == []
    assert "paused" in routed.reason(job_id)
    with routed.ledger.transaction() as session:
        resume_queue(session, "m")
    routed.live.queues.set_paused("m", paused=False)
    routed.router.run_pass()
    assert routed.placed(job_id) == [job_id]


def test_a_lost_live_state_hears_of_paused_queues_from_the_router_before_anybody_passes(routed: RouterWorld) -> None:
    with routed.ledger.transaction() as session:
        pause_queue(session, "m", by="key", now=datetime.now(UTC))
    routed.world.redis.flushall()
    routed.world.lead()
    routed.world.add_gpu(GPU, WORKER, replica_order())
    early = routed.live.jobs.create(job_spec("early"))
    routed.router.run_pass()
    late = routed.live.jobs.create(job_spec("late"))
    assert (early.gpu, late.gpu) == (None, None)
    assert routed.placed("early", "late") == []


def test_a_tenant_runs_no_more_jobs_than_the_server_allows(world: World, ledger: Database, live_url: str) -> None:
    routed = RouterWorld(world, ledger, live_url, max_running_jobs=2)
    world.add_gpu(GPU, WORKER, replica_order())
    routed.router.run_pass()
    jobs = [f"job_{i}" for i in range(4)]
    for job_id in jobs:
        routed.live.jobs.create(job_spec(job_id, tenant="flood"))
    other = submit(routed, "other", "other")
    routed.router.run_pass()
    assert routed.placed(*jobs, other) == ["job_0", "job_1", "other"]
    routed.router.run_pass()
    assert routed.placed(*jobs, other) == ["job_0", "job_1", "other"]
    assert "as many jobs" in routed.reason("job_2")


def test_a_tenants_own_limit_holds_before_the_servers(routed: RouterWorld) -> None:
    with routed.ledger.transaction() as session:
        ensure_tenant(session, "flood", now=datetime.now(UTC))
        session.get_one(TenantRow, "flood").max_running_jobs = 1
    routed.world.add_gpu(GPU, WORKER, replica_order())
    jobs = [submit(routed, f"job_{i}") for i in range(3)]
    routed.router.run_pass()
    assert routed.placed(*jobs) == ["job_0"]
    # Not even on the warm path, whatever has been given back.
    assert routed.live.jobs.create(job_spec("job_3", tenant="flood")).gpu is None


def test_a_job_past_its_deadline_is_not_started(routed: RouterWorld) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order())
    late = submit(routed, "late", deadline_ms=routed.live.now_ms() - 1)
    in_time = submit(routed, "in_time", deadline_ms=routed.live.now_ms() + 60_000)
    routed.router.run_pass()
    assert routed.placed(late, in_time) == ["in_time"]


def test_while_the_ledger_is_away_a_job_of_an_unknown_model_waits_and_holds_nobody_up(
    routed: RouterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order())
    routed.router.run_pass()
    looks: list[Snapshot] = []

    def no_answer(snapshot: Snapshot) -> None:
        looks.append(snapshot)
        raise UnavailableError("the database did not answer")

    monkeypatch.setattr("sllm_tasks.router.snapshot._MODELS_LIFE_S", 60.0)
    with monkeypatch.context() as patch:
        patch.setattr(Snapshot, "read_models", no_answer)
        unknown = [submit(routed, f"unknown_{i}", model=f"unknown_{i}") for i in range(3)]
        known = submit(routed, "known")
        routed.router.run_pass()
    assert routed.placed(*unknown, known) == ["known"]
    assert routed.reason("unknown_0") == "model unknown_0 is not deployed"
    assert len(looks) == 1


def test_a_closed_replica_takes_jobs_again_when_nobody_waits_for_its_memory(routed: RouterWorld) -> None:
    routed.world.running_job("first")
    assert routed.live.router.drain(epoch=routed.world.lead(), replica_id="replica_1")
    assert routed.live.jobs.create(job_spec("early")).gpu is None
    routed.router.run_pass()
    view = routed.live.jobs.view("early")
    assert view is not None
    assert view.replica_id == "replica_1"
    assert routed.live.jobs.create(job_spec("late")).gpu == GPU


def test_a_job_that_its_tenant_may_not_run_yet_keeps_a_replica_closed_for_it(routed: RouterWorld) -> None:
    with routed.ledger.transaction() as session:
        ensure_tenant(session, job_spec().tenant, now=datetime.now(UTC))
        session.get_one(TenantRow, job_spec().tenant).max_running_jobs = 1
    now_ms = routed.live.now_ms()
    routed.world.running_job("first")
    assert routed.live.router.drain(epoch=routed.world.lead(), replica_id="replica_1")
    routed.world.redis.hset("sllm:replica:replica_1", "ready_ms", now_ms - 600_000)
    submit(routed, "own")
    submit(routed, "other", job_spec().tenant, shape=replace(SHAPE, context=2 * SHAPE.context))
    has_waited(routed, "other", now_ms - 600_000)
    routed.router.run_pass()
    order = routed.live.fleet.replica("replica_1")
    assert order is not None
    assert order.replica.state is ReplicaState.DRAINING


def test_time_in_which_its_queue_was_paused_is_no_part_of_a_jobs_wait(routed: RouterWorld) -> None:
    with routed.ledger.transaction() as session:
        pause_queue(session, "m", by="key", now=datetime.now(UTC))
    has_waited(routed, submit(routed, "job_1"))
    routed.router.run_pass()
    with routed.ledger.transaction() as session:
        resume_queue(session, "m")
    routed.live.queues.set_paused("m", paused=False)
    now_ms = routed.live.now_ms()
    routed.router.run_pass()
    since_ms = oldest_ms(routed)
    assert since_ms >= now_ms
    routed.router.run_pass()
    assert oldest_ms(routed) == since_ms


def test_time_in_which_its_tenant_ran_all_that_it_may_is_no_part_of_a_jobs_wait(
    world: World, ledger: Database, live_url: str
) -> None:
    routed = RouterWorld(world, ledger, live_url, max_running_jobs=1)
    routed.world.add_gpu(GPU, WORKER, replica_order(slots=1))
    for job_id in ("first", "second"):
        has_waited(routed, submit(routed, job_id))
    for _ in range(2):
        routed.router.run_pass()
    assert routed.placed("first", "second") == ["first"]
    routed.live.router.drain(epoch=routed.router._epoch(), replica_id="replica_1")
    routed.live.jobs.finish(routed.world.claim("first"), SUCCEEDED)
    now_ms = routed.live.now_ms()
    routed.router.run_pass()
    assert oldest_ms(routed) >= now_ms


def test_a_job_that_comes_back_after_the_live_state_was_lost_is_read_anew(routed: RouterWorld) -> None:
    has_waited(routed, submit(routed, "job_1"))
    routed.router.run_pass()
    assert oldest_ms(routed) == 1
    routed.world.redis.flushall()
    routed.world.lead()
    routed.live.jobs.create(job_spec("job_1", tenant="flood"), attempt=2, fast_path=False)
    routed.router.run_pass()
    assert oldest_ms(routed) > 1


@pytest.mark.parametrize("num_jobs", [20, 500])
def test_a_pass_asks_the_live_state_as_often_however_many_jobs_wait(routed: RouterWorld, num_jobs: int) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order(slots=1))
    for i in range(num_jobs):
        submit(routed, f"job_{i:04}")
    # The first passes read all jobs and tell them, a few at a time, why they wait.
    for _ in range(2 + num_jobs // 64):
        routed.router.run_pass()
    before = routed.world.redis.info("commandstats")
    routed.router.run_pass()
    after = routed.world.redis.info("commandstats")
    calls = {name: stats["calls"] - before.get(name, {"calls": 0})["calls"] for name, stats in after.items()}
    assert calls["cmdstat_zrange"] == 1
    assert calls.get("cmdstat_evalsha", 0) <= 2
    assert calls.get("cmdstat_hmget", 0) <= 4
