"""What the router decides by, what it keeps of each decision, and what becomes of jobs that fit nowhere."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update

from sllm_tasks.cluster import GpuId, NodeInfo, Tier
from sllm_tasks.control.ledger_writer import LedgerWriter
from sllm_tasks.errors import ErrorCode, UnavailableError
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.ids import first_id
from sllm_tasks.jobs import JobPhase, JobStatus
from sllm_tasks.learning import Learning
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.decisions import accuracy, list_decisions
from sllm_tasks.ledger.jobs import NewJob, get_job, insert_job
from sllm_tasks.ledger.keys import ensure_tenant
from sllm_tasks.ledger.loads import MeasuredLoad, add_loads
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.tables import DecisionRow, ModelRow
from sllm_tasks.livestate.fleet import LoadState
from sllm_tasks.policy.view import WaitingJob
from sllm_tasks.router.misfits import Misfits
from sllm_tasks.router.running import with_running_jobs
from sllm_tasks.router.snapshot import Snapshot
from tests.integration.livestate.world import GPU, SHAPE, SUCCEEDED, WORKER, job_spec, replica_order
from tests.integration.router.conftest import RouterWorld
from tests.support.processes import wait_until

_GB = 10**9


def accept(routed: RouterWorld, job_id: str = "job_1", **changes: object) -> str:
    spec = job_spec(job_id, created_ms=routed.live.now_ms(), **changes)
    with routed.ledger.transaction() as session:
        ensure_tenant(session, spec.tenant, now=datetime.now(UTC))
        insert_job(session, NewJob(spec=spec))
    routed.live.jobs.create(spec, fast_path=False)
    return job_id


def measured(*seconds: float, tier: Tier = Tier.SSD) -> list[MeasuredLoad]:
    now = datetime.now(UTC)
    return [
        MeasuredLoad(
            id=f"load_{tier}_{index}", checkpoint="c", node=GPU.node, gpu=0, tier=tier, num_bytes=10 * _GB,
            seconds=taken, at=now - timedelta(seconds=60 - index),
        )
        for index, taken in enumerate(seconds)
    ]  # fmt: skip


def learned(routed: RouterWorld) -> LearnedEstimates:
    """What a router that starts now would expect."""
    learning = Learning(routed.ledger)
    learning.follow(routed.live.now_ms())
    return learning.estimates


def reported(routed: RouterWorld, kind: str = "decision") -> list[dict[str, Any]]:
    return [report.data for report in routed.live.reports.read(1_000, 1) if report.kind == kind]


def commit(routed: RouterWorld) -> None:
    writer = LedgerWriter(routed.ledger, routed.live, lambda _: None)
    while reports := routed.live.reports.read(100, 1):
        writer.write(reports)


def decisions_of(ledger: Database, job_id: str) -> list[DecisionRow]:
    with ledger.reading() as session:
        return list(list_decisions(session, PageRequest(limit=50), job_id=job_id).rows)


def test_a_decision_is_kept_with_its_price_its_candidates_and_what_it_took(routed: RouterWorld) -> None:
    routed.world.add_gpu()
    accept(routed)
    routed.router.run_pass()
    claim = routed.world.claim()
    routed.live.jobs.set_phase(claim, JobPhase.PREFILL)
    routed.world.append(claim, 0, 1)
    routed.live.jobs.finish(claim, SUCCEEDED)
    commit(routed)
    (decision,) = decisions_of(routed.ledger, "job_1")
    assert (decision.path, decision.choice["gpus"]) == ("load_ssd", [str(GPU)])
    assert decision.candidates[0]["gpus"] == [str(GPU)]
    assert decision.predicted_s is not None
    assert decision.predicted_s == pytest.approx(decision.choice["start"]["seconds"], abs=0.001)  # type: ignore[index]
    assert decision.actual_s is not None
    with routed.ledger.reading() as session:
        found = accuracy(session, model="m")
        assert accuracy(session, model="other") is None
    assert found is not None
    assert found.num_decisions == 1
    assert found.median_error_s == pytest.approx(abs(decision.actual_s - decision.predicted_s))


def test_a_checkpoint_in_memory_is_loaded_from_there_and_the_job_says_so(routed: RouterWorld) -> None:
    routed.world.add_gpu()
    node = NodeInfo(name=GPU.node, checkpoints=frozenset({"c"}), in_dram=frozenset({"c"}))
    routed.live.fleet.beat_node(node, routed.live.now_ms())
    accept(routed)
    routed.router.run_pass()
    view = routed.live.jobs.view("job_1")
    assert view is not None
    assert view.start_kind == "cold_dram"
    (load,) = Snapshot(routed.live, routed.ledger).view().loads[GPU.node]
    assert load.tier is Tier.DRAM
    assert reported(routed)[0]["path"] == "load_dram"


def test_what_was_measured_is_what_is_expected_also_after_a_restart(routed: RouterWorld) -> None:
    with routed.ledger.transaction() as session:
        add_loads(session, measured(4.0, 4.1, 3.9, 4.0))
    for estimates in (learned(routed), learned(routed)):
        assert estimates.loading(GPU.node, Tier.SSD, 10 * _GB).seconds == pytest.approx(4.0)


def test_what_a_load_waited_for_does_not_make_its_disk_look_slow(routed: RouterWorld) -> None:
    now = datetime.now(UTC)
    # 1 GB/s: one of 10 GB began with another of 5 GB, which went first.
    small = replace(measured(5.0)[0], checkpoint="other", num_bytes=5 * _GB, at=now - timedelta(seconds=10))
    large = replace(small, id="large", checkpoint="c", num_bytes=10 * _GB, seconds=15.0, at=now)
    with routed.ledger.transaction() as session:
        add_loads(session, [small, large])
    estimates = learned(routed)
    assert estimates.loading(GPU.node, Tier.SSD, 10 * _GB).seconds == pytest.approx(10.0, rel=0.05)


def test_new_measurements_are_learned_once(routed: RouterWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sllm_tasks.learning._PERIOD_S", 0.0)
    learning = Learning(routed.ledger)
    with routed.ledger.transaction() as session:
        add_loads(session, measured(4.0))
    for _ in range(3):
        learning.follow(routed.live.now_ms())
    later = [replace(load, id=f"later_{index}", seconds=6.0) for index, load in enumerate(measured(1, 2))]
    with routed.ledger.transaction() as session:
        add_loads(session, [replace(load, at=datetime.now(UTC)) for load in later])
    learning.follow(routed.live.now_ms())
    # Of 4, 6 and 6 the middle one, as it would not be had the first been told three times.
    assert learning.estimates.loading(GPU.node, Tier.SSD, 10 * _GB).seconds == pytest.approx(6.0)


def test_a_host_whose_clock_is_ahead_hides_no_jobs_of_others(
    routed: RouterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sllm_tasks.learning._PERIOD_S", 0.0)
    learning = Learning(routed.ledger)
    now_ms = routed.live.now_ms()
    accept(routed, first_id("job", now_ms + 3_600_000))
    learning.follow(now_ms)
    accept(routed, first_id("job", now_ms), model="other")
    learning.follow(now_ms + 100)
    assert learning.estimates.quiet_s("other", now_ms / 1_000) == pytest.approx(0.0, abs=10.0)


def test_ended_jobs_teach_how_long_a_token_takes(routed: RouterWorld) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order())
    accept(routed)
    routed.router.run_pass()
    claim = routed.world.claim()
    routed.live.jobs.set_phase(claim, JobPhase.PREFILL)
    routed.world.append(claim, *range(5))
    routed.live.jobs.finish(claim, SUCCEEDED)
    commit(routed)
    with routed.ledger.reading() as session:
        row = get_job(session, "job_1")
    assert row is not None
    assert row.timings_ms is not None
    assert row.timings_ms["batch"] == 1


def test_a_load_under_way_is_seen_with_what_is_left_of_it(routed: RouterWorld) -> None:
    routed.world.add_gpu()
    accept(routed)
    routed.router.run_pass()
    snapshot = Snapshot(routed.live, routed.ledger)
    (load,) = snapshot.view().loads[GPU.node]
    assert (load.gpus, load.tier, load.remaining_bytes) == ((GPU,), Tier.SSD, 1)
    assert load.age_s == 0, "nobody has begun it"
    routed.live.fleet.begin_load(load.replica_id)
    wait_until(lambda: snapshot.view().loads[GPU.node][0].age_s > 0, "some time of the load")
    state = LoadState(done_bytes=1, total_bytes=1, bytes_per_s=1, remaining_ms=0)
    routed.live.fleet.note_load(load.replica_id, state)
    (load,) = snapshot.view().loads[GPU.node]
    assert load.remaining_bytes == 0
    routed.live.fleet.replica_ready(load.replica_id)
    assert snapshot.view().loads == {}


def test_what_is_left_of_a_load_out_of_memory_is_what_one_of_its_gpus_lacks(routed: RouterWorld) -> None:
    with routed.ledger.transaction() as session:
        session.execute(update(ModelRow).values(num_gpus=2, weights_bytes=100))
    for index in range(2):
        routed.world.add_gpu(GpuId(GPU.node, index))
    node = NodeInfo(name=GPU.node, checkpoints=frozenset({"c"}), in_dram=frozenset({"c"}))
    routed.live.fleet.beat_node(node, routed.live.now_ms())
    accept(routed, shape=replace(SHAPE, num_gpus=2))
    routed.router.run_pass()
    snapshot = Snapshot(routed.live, routed.ledger)
    (load,) = snapshot.view().loads[GPU.node]
    assert (len(load.gpus), load.tier, load.remaining_bytes) == (2, Tier.DRAM, 50)
    # Half of what all gpus get is half of what each gets.
    state = LoadState(done_bytes=50, total_bytes=100, bytes_per_s=1, remaining_ms=1)
    routed.live.fleet.note_load(load.replica_id, state)
    (load,) = snapshot.view().loads[GPU.node]
    assert load.remaining_bytes == 25


def test_running_jobs_are_read_when_all_replicas_are_full(routed: RouterWorld) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order(slots=1))
    job = WaitingJob(id="job_2", model="m", attempt=1, checkpoint="c", shape=SHAPE)
    snapshot = Snapshot(routed.live, routed.ledger)
    assert with_running_jobs(routed.live, snapshot.view(), job).running == {}
    accept(routed)
    routed.router.run_pass()
    routed.world.append(routed.world.claim(), 0, 1, 2)
    (running,) = with_running_jobs(routed.live, snapshot.view(), job).running["replica_1"]
    assert (running.id, running.num_tokens, running.max_tokens, running.prompt_tokens) == ("job_1", 3, 8, 3)
    assert running.started_ms is not None


def test_a_job_that_waits_has_a_forecast_that_is_compared_as_well(routed: RouterWorld) -> None:
    routed.world.add_gpu(GPU, WORKER, replica_order(slots=1))
    accept(routed, "first")
    routed.router.run_pass()
    accept(routed, "second")
    routed.router.run_pass()
    assert routed.reason("second") == "all 1 replicas are full and max_replicas is 1"
    routed.live.jobs.finish(routed.world.claim("first"), SUCCEEDED)
    routed.router.run_pass()
    claim = routed.world.claim("second")
    routed.world.append(claim, 0)
    routed.live.jobs.finish(claim, SUCCEEDED)
    commit(routed)
    decisions = decisions_of(routed.ledger, "second")
    assert [decision.path for decision in decisions] == ["warm", "wait"]
    assert all(decision.predicted_s is not None and decision.actual_s is not None for decision in decisions)


def test_a_job_that_fits_on_no_gpu_any_more_ends_after_a_minute(routed: RouterWorld) -> None:
    routed.world.add_gpu(capacity_bytes=SHAPE.bytes_per_gpu - 1)
    accept(routed)
    routed.router.run_pass()
    assert "no node has that" in routed.reason("job_1")
    misfits, job = Misfits(routed.live, routed.ledger), WaitingJob(id="job_1", model="m", attempt=1)
    assert not misfits.ended(job, "too large", 1_000)
    misfits.fits(job)
    assert not misfits.ended(job, "too large", 70_000)
    assert misfits.ended(job, "too large", 130_000)
    with routed.ledger.reading() as session:
        row = get_job(session, "job_1")
    assert row is not None
    assert (row.status, row.error_code) == (JobStatus.FAILED, ErrorCode.OUT_OF_MEMORY)
    assert routed.live.jobs.waiting() == []


def test_while_the_ledger_is_away_a_job_that_fits_nowhere_waits_on_and_holds_nobody_up(
    routed: RouterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sllm_tasks.router.misfits._PATIENCE_MS", 0)
    routed.world.add_gpu(GPU, WORKER, replica_order())
    routed.router.run_pass()

    def no_answer(_: Database) -> None:
        raise UnavailableError("the database did not answer")

    large = accept(routed, "large", shape=replace(SHAPE, bytes_per_gpu=1_000, context=2 * SHAPE.context))
    small = accept(routed, "small")
    with monkeypatch.context() as patch:
        patch.setattr(Database, "transaction", no_answer)
        routed.router.run_pass()
    assert routed.placed(large, small) == ["small"]
    routed.router.run_pass()
    assert routed.live.jobs.waiting() == []


def test_a_job_that_fits_nowhere_has_its_minute_however_long_ago_another_one_did_not_fit(
    routed: RouterWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sllm_tasks.router.misfits._PATIENCE_MS", 50)
    routed.world.add_gpu(capacity_bytes=SHAPE.bytes_per_gpu - 1)
    accept(routed, "first")
    routed.router.run_pass()
    routed.live.jobs.end("first", JobStatus.CANCELED, {})
    routed.router.run_pass()
    time.sleep(0.1)
    accept(routed, "second")
    routed.router.run_pass()
    assert routed.live.jobs.waiting() == ["second"]
    time.sleep(0.1)
    routed.router.run_pass()
    assert routed.live.jobs.waiting() == []
