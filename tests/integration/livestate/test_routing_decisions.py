"""The router's decisions are carried out only by the leader, and only while the world is as it saw it."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import pytest

from sllm_tasks.cluster import GpuState, ReplicaState
from sllm_tasks.jobs import JobStatus
from sllm_tasks.livestate.fleet import LoadState
from sllm_tasks.livestate.router import Applied, Change, Feed, NewReplica
from tests.integration.livestate.world import (
    GPU,
    OTHER_GPU,
    SUCCEEDED,
    WORKER,
    World,
    job_spec,
    model_info,
    replica_order,
)
from tests.support.processes import wait_until
from tests.support.races import run_together


def _new(num_bytes: int = 10, *victims: str) -> NewReplica:
    return NewReplica(model=model_info(num_bytes=num_bytes), gpus=(GPU,), victims=victims)


def test_a_new_replica_reserves_its_memory_and_the_place_of_its_first_job(world: World) -> None:
    world.add_gpu()
    world.live.jobs.create(job_spec())
    assert world.apply("job_1", "replica_1", _new(60)) is Applied.OK
    assert (world.reserved_bytes(), world.num_jobs()) == (60, 1)
    order = world.live.fleet.replica("replica_1")
    assert order is not None
    assert (order.replica.state, order.replica.engine, order.replica.context) == (ReplicaState.LOADING, "instant", 64)
    assert world.live.jobs.waiting() == []


def test_more_jobs_may_join_a_replica_that_is_still_loading(world: World) -> None:
    world.add_gpu()
    for job_id in ("first", "second"):
        world.live.jobs.create(job_spec(job_id))
    world.apply("first", "replica_1", _new())
    assert world.apply("second", "replica_1") is Applied.OK
    assert world.num_jobs() == 2


def test_a_router_that_lost_its_lease_decides_nothing(world: World) -> None:
    world.add_gpu()
    world.live.jobs.create(job_spec())
    old = world.lead("router_a")
    world.redis.delete("sllm:router:leader")
    new = world.lead("router_b")
    assert new > old
    assert world.apply("job_1", "replica_1", _new(), epoch=old) is Applied.STALE_ROUTER
    assert world.reserved_bytes() == 0
    assert world.live.counters()["stale_router"] == 1
    assert world.apply("job_1", "replica_1", _new(), epoch=new) is Applied.OK


def test_memory_that_is_not_free_is_not_promised(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order("other", num_bytes=50))
    world.live.jobs.create(job_spec(model="n"))
    assert world.apply("job_1", "replica_1", _new(51)) is Applied.FULL
    assert world.apply("job_1", "replica_1", _new(50)) is Applied.OK
    assert world.reserved_bytes() == 100


def test_of_many_decisions_for_one_gpu_only_as_many_are_carried_out_as_fit(world: World) -> None:
    world.add_gpu()
    epoch = world.lead()
    for i in range(16):
        world.live.jobs.create(job_spec(f"job_{i}"))
    decisions = [partial(world.apply, f"job_{i}", f"replica_{i}", _new(30), epoch=epoch) for i in range(16)]
    assert sorted(run_together(decisions)) == [Applied.FULL] * 13 + [Applied.OK] * 3
    assert world.reserved_bytes() == 90


def test_a_full_replica_takes_no_more_jobs(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order(slots=1))
    world.live.jobs.create(job_spec("first"))
    world.live.jobs.create(job_spec("second"))
    assert world.apply("second", "replica_1") is Applied.FULL


def test_victims_make_room_and_are_closed(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order("victim", num_bytes=80))
    world.live.jobs.create(job_spec(model="n"))
    assert world.apply("job_1", "replica_1", _new(90)) is Applied.FULL
    assert world.apply("job_1", "replica_1", _new(90, "victim")) is Applied.OK
    assert world.reserved_bytes() == 90
    assert [closed.id for closed in world.live.fleet.closed_replicas(GPU)] == ["victim"]


def test_memory_of_a_victim_is_given_away_once(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order("victim", num_bytes=80))
    for job_id in ("job_1", "job_2"):
        world.live.jobs.create(job_spec(job_id, model="n"))
    world.apply("job_1", "replica_1", _new(90, "victim"))
    assert world.apply("job_2", "replica_2", _new(90, "victim")) is Applied.BUSY
    world.live.fleet.drop_replica("victim")
    assert world.reserved_bytes() == 90


def test_a_victim_that_got_a_job_in_the_meantime_is_spared(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order("victim", num_bytes=80))
    world.live.jobs.create(job_spec("warm"))
    world.live.jobs.create(job_spec("job_1", model="n"))
    assert world.apply("job_1", "replica_1", _new(90, "victim")) is Applied.BUSY
    assert world.reserved_bytes() == 80


def test_a_decision_that_does_not_fit_closes_none_of_its_victims(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order("victim", num_bytes=10), replica_order("other", num_bytes=80))
    world.live.jobs.create(job_spec(model="n"))
    assert world.apply("job_1", "replica_1", _new(90, "victim")) is Applied.FULL
    order = world.live.fleet.replica("victim")
    assert order is not None
    assert order.replica.state is ReplicaState.READY


@pytest.mark.parametrize("how", ["silent", "draining", "gone"])
def test_a_gpu_that_takes_no_work_gets_no_replica(world: World, how: str) -> None:
    if how != "gone":
        world.add_gpu()
    if how == "silent":
        world.silence(GPU)
    if how == "draining":
        world.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    world.live.jobs.create(job_spec())
    assert world.apply("job_1", "replica_1", _new()) is Applied.DEAD
    assert world.live.fleet.replica("replica_1") is None


def test_a_replica_that_is_gone_or_closing_gets_no_job(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec(), fast_path=False)
    assert world.apply("job_1", "replica_none") is Applied.DEAD
    world.live.fleet.unload_replica("replica_1")
    assert world.apply("job_1", "replica_1") is Applied.DEAD


def test_a_job_that_has_a_place_or_has_ended_is_not_placed_again(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    world.live.jobs.create(job_spec("placed"))
    assert world.apply("placed", "replica_1") is Applied.GONE
    world.live.jobs.create(job_spec("ended", model="n"))
    world.live.jobs.end("ended", JobStatus.CANCELED, {})
    assert world.apply("ended", "replica_1") is Applied.GONE
    assert world.num_jobs() == 1


def test_a_decision_about_an_earlier_attempt_is_not_carried_out(world: World) -> None:
    world.live.jobs.release(world.running_job(), "hand_over")
    assert world.apply("job_1", "replica_1", attempt=1) is Applied.GONE


def test_a_decision_about_an_earlier_attempt_leaves_the_job_among_the_waiting_ones(world: World) -> None:
    world.live.jobs.release(world.running_job(), "hand_over")
    world.apply("job_1", "replica_1", attempt=1)
    assert world.live.jobs.waiting() == ["job_1"]


def test_a_gpu_holds_one_suspect_at_a_time(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    for job_id in ("first", "second"):
        world.live.jobs.create(job_spec(job_id), fast_path=False)
    assert world.apply("first", "replica_1", suspect=True) is Applied.OK
    gpu = world.live.fleet.gpu(GPU)
    assert gpu is not None
    assert gpu.suspect == "first"
    assert world.apply("second", "replica_1", suspect=True) is Applied.FULL
    world.live.jobs.end("first", JobStatus.FAILED, {})
    assert world.apply("second", "replica_1", suspect=True) is Applied.OK


def test_of_many_routers_one_leads(world: World) -> None:
    routers = [partial(world.live.router.lead, f"router_{i}") for i in range(16)]
    answers = [epoch for epoch in run_together(routers) if epoch is not None]
    assert len(answers) == 1
    assert world.live.router.leader().startswith("router_")


def test_a_leader_keeps_its_epoch_while_it_renews_in_time(world: World) -> None:
    assert world.lead("router_a") == world.lead("router_a")
    assert world.live.router.lead("router_b") is None


def test_a_lease_that_ran_out_goes_to_the_next_with_a_greater_epoch(world: World) -> None:
    first = world.lead("router_a")
    world.redis.pexpire("sllm:router:leader", 1)
    wait_until(lambda: not world.live.router.leader(), "the end of the lease")
    second = world.lead("router_b")
    assert second > first
    assert world.live.router.lead("router_a") is None


def test_a_lease_that_ran_out_and_that_nobody_took_is_taken_up_with_its_epoch(world: World) -> None:
    first = world.lead("router_a")
    world.redis.delete("sllm:router:leader")
    assert world.live.router.lead("router_a", first) == first
    assert world.live.router.leader() == "router_a"


def test_a_leader_whose_place_was_taken_and_left_does_not_lead_with_its_old_epoch(world: World) -> None:
    first = world.lead("router_a")
    world.redis.delete("sllm:router:leader")
    second = world.lead("router_b")
    world.redis.delete("sllm:router:leader")
    assert (world.live.router.lead("router_a", first) or 0) > second


def test_a_leader_does_not_lead_with_its_old_epoch_after_a_loss_of_the_live_state(world: World) -> None:
    first = world.lead("router_a")
    world.redis.flushall()
    assert (world.live.router.lead("router_a", first) or 0) > first


def test_one_trigger_for_the_router_is_on_its_way_at_a_time(world: World) -> None:
    assert sum(run_together([world.live.router.kick] * 16)) == 1
    world.live.router.begin_pass("")
    assert world.live.router.kick()


def test_a_pass_begins_with_what_changed_and_with_the_waiting_room(world: World) -> None:
    world.add_gpu()
    position = world.live.router.feed_end()
    world.live.jobs.create(job_spec())
    feed, room = world.live.router.begin_pass(position)
    assert feed == world.live.router.changes(position)
    assert room == world.live.queues.look()
    assert room.job_ids == ("job_1",)
    assert world.live.router.begin_pass("") == (None, room)


def test_changes_are_told_once_each_from_a_position_on(world: World) -> None:
    world.add_gpu()
    position = world.live.router.feed_end()
    world.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    world.live.fleet.set_gpu_state(GPU, GpuState.UP)
    answer = world.live.router.changes(position)
    assert answer is not None
    assert answer.changes == (Change(kind="gpu", id=str(GPU)),)
    assert world.live.router.changes(answer.position) == Feed(position=answer.position, changes=())


def test_an_empty_feed_has_no_changes(world: World) -> None:
    assert world.live.router.feed_end() == "0"
    assert world.live.router.changes("0") == Feed(position="0", changes=())


def test_a_reader_that_lost_its_place_in_the_feed_is_told_so(world: World) -> None:
    world.add_gpu()
    position = world.live.router.feed_end()
    world.add_gpu(OTHER_GPU, "worker_b")
    world.redis.xtrim("sllm:feed", maxlen=1, approximate=False)
    assert world.live.router.changes(position) is None


def test_a_feed_that_began_anew_is_told_to_readers_of_the_old_one(world: World) -> None:
    world.add_gpu()
    position = world.live.router.feed_end()
    world.redis.flushall()
    # Places in a feed are milliseconds: a new one that begins in the same one would have the same.
    wait_until(lambda: world.live.now_ms() > int(position.partition("-")[0]), "the next millisecond")
    assert world.live.router.changes(position) is None
    world.add_gpu()
    assert world.live.router.changes(position) is None


def test_a_draining_replica_keeps_its_jobs_takes_no_more_and_can_be_evicted_when_they_ended(world: World) -> None:
    claim = world.running_job("first")
    assert world.live.router.drain(epoch=world.lead(), replica_id="replica_1")
    placed = world.live.jobs.create(job_spec("second"))
    assert placed.gpu is None
    assert world.apply("second", "replica_1") is Applied.DEAD
    world.live.jobs.create(job_spec("third", model="n"))
    assert world.apply("third", "replica_2", _new(95, "replica_1")) is Applied.BUSY
    world.live.jobs.finish(claim, SUCCEEDED)
    assert world.apply("third", "replica_2", _new(95, "replica_1")) is Applied.OK


def test_a_replica_that_is_opened_again_takes_jobs_and_one_that_is_being_unloaded_stays_closed(world: World) -> None:
    claim = world.running_job("first")
    epoch = world.lead()
    assert not world.live.router.open(epoch=epoch, replica_id="replica_1")
    assert world.live.router.drain(epoch=epoch, replica_id="replica_1")
    assert world.live.router.open(epoch=epoch, replica_id="replica_1")
    assert world.live.jobs.create(job_spec("second")).gpu == GPU
    world.live.jobs.finish(claim, SUCCEEDED)
    world.live.jobs.finish(world.claim("second"), SUCCEEDED)
    assert world.live.router.drain(epoch=epoch, replica_id="replica_1")
    assert world.live.fleet.unload_replica("replica_1") == GPU
    assert not world.live.router.open(epoch=epoch, replica_id="replica_1")


def test_a_router_that_lost_its_lease_drains_nothing_and_opens_nothing(world: World) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    old = world.lead("router_a")
    world.redis.delete("sllm:router:leader")
    world.lead("router_b")
    assert not world.live.router.drain(epoch=old, replica_id="replica_1")
    assert world.live.jobs.create(job_spec()).gpu == GPU
    assert world.live.router.drain(epoch=world.lead("router_b"), replica_id="replica_1")
    assert not world.live.router.open(epoch=old, replica_id="replica_1")


def test_a_job_that_waits_says_why_until_it_has_a_place(world: World) -> None:
    world.add_gpu()
    world.live.jobs.create(job_spec())
    world.live.router.note_wait("job_1", 1, "no gpu has the memory")
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert view.wait_reason == "no gpu has the memory"
    assert world.live.jobs.events("job_1")[-1].data["reason"] == "no gpu has the memory"
    world.apply("job_1", "replica_1", _new())
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert view.wait_reason == ""
    world.live.router.note_wait("job_1", 1, "too late")
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert view.wait_reason == ""


def test_a_reason_to_wait_makes_no_record_of_an_unknown_job(world: World) -> None:
    world.live.router.note_wait("job_1", 1, "no gpu has the memory")
    assert world.live.jobs.view("job_1") is None


def test_the_begin_of_a_load_is_noted_while_the_replica_is_wanted(world: World) -> None:
    world.add_gpu()
    world.live.jobs.create(job_spec("first"))
    world.apply("first", "replica_1", _new())
    order = world.live.fleet.replica("replica_1")
    assert order is not None
    assert order.noted_ms is None
    before_ms = world.live.now_ms()
    world.live.fleet.begin_load("replica_1")
    order = world.live.fleet.replica("replica_1")
    assert order is not None
    assert before_ms <= (order.noted_ms or 0) <= world.live.now_ms()
    world.live.fleet.begin_load("gone")
    assert world.live.fleet.replica("gone") is None


def test_jobs_hear_how_far_the_load_of_their_replica_is(world: World) -> None:
    world.add_gpu()
    for job_id in ("first", "second", "elsewhere"):
        world.live.jobs.create(job_spec(job_id))
    for job_id in ("first", "second"):
        world.apply(job_id, "replica_1", _new() if job_id == "first" else None)
    load = LoadState(done_bytes=3, total_bytes=10, bytes_per_s=2, remaining_ms=3_500)
    world.live.fleet.note_load("replica_1", load)
    views = world.live.jobs.views(["first", "second", "elsewhere"])
    assert [view.load if view else None for view in views] == [asdict(load), asdict(load), None]
    assert world.live.jobs.events("second")[-1].kind == "loading"
    world.live.fleet.replica_ready("replica_1")
    before = len(world.live.jobs.events("first"))
    world.live.fleet.note_load("replica_1", load)
    assert len(world.live.jobs.events("first")) == before, "it is loaded by now"
