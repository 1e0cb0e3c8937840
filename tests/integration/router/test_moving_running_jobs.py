"""Running jobs move away for one that waits: it gets the memory when that is free, whatever happens meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from sllm_tasks.cluster import GpuId, NodeInfo, ReplicaState
from sllm_tasks.control.ledger_writer import LedgerWriter
from sllm_tasks.estimators.facts import MigrationFact
from sllm_tasks.jobs import JobStatus, SamplingParams
from sllm_tasks.ledger import inventory
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.facts import migration_facts
from sllm_tasks.ledger.jobs import NewJob, insert_job
from sllm_tasks.ledger.keys import ensure_tenant
from sllm_tasks.ledger.migrations import list_migrations
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.migration.records import HandOver, Migration, PrefixHash
from sllm_tasks.migration.states import MigrationReason, MigrationState
from tests.integration.livestate.world import GPU, OTHER_GPU, SHAPE, SUCCEEDED, World, job_spec, replica_order, token
from tests.integration.router.conftest import RouterWorld
from tests.support.processes import wait_until

#: Holds one replica.
_CAPACITY_BYTES = SHAPE.bytes_per_gpu
_LONG = SamplingParams(max_tokens=2_000, seed=7)


@pytest.fixture
def ledger(ledger: Database) -> Database:
    """Another model, whose checkpoint both nodes have; that of `m` is on the first one alone."""
    now = datetime.now(UTC)
    settings = inventory.ModelSettings(
        name="a", source="/nowhere", engine=SHAPE.engine, dtype="auto", num_gpus=1, max_jobs=SHAPE.max_jobs,
        context=SHAPE.context, keep_alive_s=60, min_replicas=0, max_replicas=2,
    )  # fmt: skip
    with ledger.transaction() as session:
        inventory.add_checkpoint(
            session,
            inventory.NewCheckpoint(
                digest="ca", source="/nowhere", architecture="TestForCausalLM", dtype="float32", num_bytes=1,
                num_parameters=1, num_partitions=1, config="{}", generation_config=None, tokenizer=None,
                tokenizer_config=None, chat_template=None, eos_token_ids=(), created_at=now,
            ),
        )  # fmt: skip
        inventory.put_model(session, settings, deployment="op_2", now=now)
        deployed = inventory.DeployedModel(
            checkpoint="ca", context=SHAPE.context, dtype="float32", weights_bytes=1, kv_bytes_per_token=1,
            bytes_per_gpu=SHAPE.bytes_per_gpu,
        )  # fmt: skip
        inventory.note_deployed(session, settings, deployed, deployment="op_2", now=now)
    return ledger


@dataclass(frozen=True, slots=True)
class Scene:
    """A job of `a` runs where alone the checkpoint of `m` is, whose job waits; the other gpu is free."""

    routed: RouterWorld
    running: Claim

    @property
    def world(self) -> World:
        return self.routed.world

    def run_pass(self) -> None:
        self.routed.router.run_pass()

    def waits(self, job_id: str = "waiting") -> bool:
        return not self.routed.placed(job_id)

    def migrations(self) -> list[Migration]:
        store = self.routed.live.migrations
        return [found for found in store.many(store.active()) if found is not None]

    def source_state(self) -> ReplicaState | None:
        order = self.routed.live.fleet.replica("replica_a")
        return None if order is None else order.replica.state

    def gpu_of(self, job_id: str) -> GpuId | None:
        view = self.routed.live.jobs.view(job_id)
        assert view is not None
        return view.gpu


@pytest.fixture
def scene(routed: RouterWorld) -> Scene:
    world = routed.world
    order = replica_order("replica_a", model="a", checkpoint="ca")
    world.add_gpu(GPU, "worker_a", order, capacity_bytes=_CAPACITY_BYTES)
    world.add_gpu(OTHER_GPU, "worker_b", capacity_bytes=_CAPACITY_BYTES)
    for gpu, checkpoints in ((GPU, {"c", "ca"}), (OTHER_GPU, {"ca"})):
        node = NodeInfo(name=gpu.node, checkpoints=frozenset(checkpoints))
        world.live.fleet.beat_node(node, world.live.now_ms())
    spec = job_spec("running", model="a", checkpoint="ca", params=_LONG)
    with routed.ledger.transaction() as session:
        ensure_tenant(session, spec.tenant, now=datetime.now(UTC))
        insert_job(session, NewJob(spec=spec))
    world.live.jobs.create(spec)
    claim = world.claim("running")
    world.append(claim, 0, 1)
    submit(routed, "waiting")
    return Scene(routed, claim)


def submit(routed: RouterWorld, job_id: str, **changes: object) -> None:
    spec = job_spec(job_id, created_ms=routed.live.now_ms(), **changes)
    routed.live.jobs.create(spec, fast_path=False)


def move(scene: Scene) -> None:
    """Play both sides of the one migration that there is."""
    live, (migration,) = scene.routed.live, scene.migrations()
    assert live.fleet.replica_ready(migration.target_replica)
    ids = [token(index).token_id for index in (0, 1)]
    for round_, read in ((0, []), (1, ids)):
        if read:
            assert live.migrations.send_round(migration.id, scene.running, round_, 0, read)
        prefix = str(PrefixHash(scene.running.spec.prompt_ids).add(read))
        live.migrations.acknowledge(
            migration.id, "worker_b", round_=round_, num_tokens=len(read), prefix_hash=prefix, seconds=0.2
        )
    answer = live.migrations.hand_over(migration.id, scene.running, num_acked=2, prefix_hash=prefix, token_ids=())
    assert answer is HandOver.OK
    found = live.migrations.get(migration.id)
    assert found is not None
    arrived = replace(scene.running, epoch=found.new_epoch, replica_id=migration.target_replica)
    scene.world.append(arrived, 2)


def test_a_job_is_moved_away_and_the_one_that_waits_gets_its_place(scene: Scene) -> None:
    scene.run_pass()
    (migration,) = scene.migrations()
    assert (migration.job_id, migration.reason) == ("running", MigrationReason.LOCALITY)
    assert (migration.source_gpu, migration.target_gpu) == (GPU, OTHER_GPU)
    assert migration.predicted_s is not None
    assert scene.source_state() is ReplicaState.DRAINING
    assert scene.waits()
    assert "moved away" in scene.routed.reason("waiting")
    move(scene)
    scene.run_pass()
    assert scene.gpu_of("waiting") == GPU
    assert scene.gpu_of("running") == OTHER_GPU


def test_what_a_move_took_teaches_what_the_next_one_will(scene: Scene, ledger: Database) -> None:
    scene.run_pass()
    move(scene)
    reports = scene.routed.live.reports.read(1_000, 1)
    LedgerWriter(ledger, scene.routed.live, lambda _: None).write([each for each in reports if each.kind != "decision"])
    with ledger.reading() as session:
        (row,) = list_migrations(session, job_id="running")
        (timed,) = migration_facts(session, since=datetime.now(UTC) - timedelta(minutes=1), limit=9)
    assert (row.reason, row.batch) == ("locality", 1)
    assert row.predicted_s is not None
    assert row.predicted_pause_s is not None
    assert isinstance(timed.fact, MigrationFact)
    assert (timed.fact.model, timed.fact.batch, timed.fact.num_tokens) == ("a", 1, 3 + 2)
    assert 0.2 <= timed.fact.seconds < 5


def test_while_jobs_move_the_one_that_waits_asks_for_nothing_more(scene: Scene) -> None:
    for _ in range(3):
        scene.run_pass()
    assert len(scene.migrations()) == 1
    assert scene.waits()


def test_the_next_router_waits_for_the_moves_of_the_one_before(scene: Scene, ledger: Database, live_url: str) -> None:
    scene.run_pass()
    scene.world.redis.delete("sllm:router:leader")
    successor = Scene(RouterWorld(scene.world, ledger, live_url), scene.running)
    successor.run_pass()
    assert len(successor.migrations()) == 1
    assert successor.waits()
    move(successor)
    successor.run_pass()
    assert successor.gpu_of("waiting") == GPU


def test_a_router_that_died_before_it_asked_for_the_moves_has_not_stopped_them(
    scene: Scene, ledger: Database, live_url: str
) -> None:
    scene.world.live.router.drain(epoch=scene.world.lead(), replica_id="replica_a")
    scene.run_pass()
    move(scene)
    scene.run_pass()
    assert scene.gpu_of("waiting") == GPU


def test_a_job_that_ends_before_it_has_moved_makes_room_as_well(scene: Scene) -> None:
    scene.run_pass()
    scene.routed.live.jobs.finish(scene.running, SUCCEEDED)
    assert not scene.migrations()
    scene.run_pass()
    assert scene.gpu_of("waiting") == GPU


def test_a_move_that_fails_is_not_tried_again_at_once_and_loses_nothing(scene: Scene) -> None:
    scene.run_pass()
    (migration,) = scene.migrations()
    scene.routed.live.migrations.end(migration.id, MigrationState.FAILED, "no memory")
    scene.routed.live.fleet.drop_replica(migration.target_replica)
    scene.run_pass()
    assert not scene.migrations()
    assert scene.waits()
    assert scene.gpu_of("running") == GPU
    scene.routed.live.jobs.finish(scene.running, SUCCEEDED)
    scene.run_pass()
    assert scene.gpu_of("waiting") == GPU


def test_memory_that_is_being_freed_for_one_job_is_promised_to_no_other(scene: Scene) -> None:
    scene.run_pass()
    scene.routed.live.jobs.finish(scene.running, SUCCEEDED)
    # Whose turn comes first, so that it would take what it could.
    submit(scene.routed, "job_0", model="a", checkpoint="ca", priority=9)
    scene.run_pass()
    assert scene.gpu_of("waiting") == GPU
    assert scene.gpu_of("job_0") != GPU


def test_what_was_held_for_a_job_is_free_when_the_job_is_gone(scene: Scene) -> None:
    scene.run_pass()
    scene.routed.live.jobs.cancel("waiting", "user")
    scene.routed.live.jobs.end("waiting", SUCCEEDED.status, {})
    scene.routed.live.jobs.finish(scene.running, SUCCEEDED)

    def is_unloaded() -> bool:
        scene.run_pass()
        return scene.source_state() in {None, ReplicaState.UNLOADING}

    wait_until(is_unloaded, "what is left empty is unloaded")
    assert not scene.routed.live.queues.look().job_ids


def test_a_replica_that_was_left_for_a_job_takes_jobs_again_when_that_has_gone_and_the_moves_have_failed(
    scene: Scene,
) -> None:
    scene.run_pass()
    (migration,) = scene.migrations()
    submit(scene.routed, "own", model="a", checkpoint="ca")
    scene.routed.live.migrations.end(migration.id, MigrationState.FAILED, "no memory")
    scene.routed.live.fleet.drop_replica(migration.target_replica)
    scene.routed.live.fleet.reap_gpu(OTHER_GPU, "worker_b")
    scene.run_pass()
    assert scene.source_state() is ReplicaState.DRAINING
    assert scene.waits("own")
    scene.routed.live.jobs.end("waiting", JobStatus.CANCELED, {})
    scene.run_pass()
    assert scene.source_state() is ReplicaState.READY
    assert scene.gpu_of("own") == GPU


def test_a_replica_whose_jobs_are_on_the_move_takes_none_though_the_job_that_they_leave_for_has_gone(
    scene: Scene,
) -> None:
    scene.run_pass()
    submit(scene.routed, "own", model="a", checkpoint="ca")
    scene.routed.live.jobs.end("waiting", JobStatus.CANCELED, {})
    scene.run_pass()
    assert len(scene.migrations()) == 1
    assert scene.source_state() is ReplicaState.DRAINING
