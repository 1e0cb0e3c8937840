"""Gpus that take no more work become empty: what decodes moves, what has no token yet waits for another place."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sllm_tasks.cluster import GpuId, GpuState, NodeInfo
from sllm_tasks.control.relocation import Relocation
from sllm_tasks.jobs import JobStatus, SamplingParams
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.drains import drain
from sllm_tasks.livestate.jobs import LiveJob
from sllm_tasks.livestate.router import Applied, NewReplica
from sllm_tasks.migration.states import MigrationReason
from sllm_tasks.mover import Mover
from tests.integration.livestate.world import GPU, OTHER_GPU, SUCCEEDED, World, job_spec, model_info, replica_order


@pytest.fixture
def relocation(world: World, database: Database) -> Relocation:
    """Two jobs on one gpu, one of which has tokens; another gpu has a replica of their model."""
    claim = world.running_job("decodes")
    world.append(claim, 0)
    world.live.jobs.create(job_spec("begins"))
    world.claim("begins")
    world.add_gpu(OTHER_GPU, "worker_b", replica_order("replica_2", gpu=OTHER_GPU))
    return Relocation(database, world.live, Mover(world.live))


def view(world: World, job_id: str) -> LiveJob:
    found = world.live.jobs.view(job_id)
    assert found is not None
    return found


def reason_of_the_move(world: World) -> MigrationReason:
    migration = world.live.migrations.get(view(world, "decodes").migration_id)
    assert migration is not None
    return migration.reason


def test_a_drained_gpu_gives_its_jobs_away(world: World, database: Database, relocation: Relocation) -> None:
    with database.transaction() as session:
        drain(session, GPU.node, by="key_1", now=datetime.now(UTC))
    relocation.step()
    assert reason_of_the_move(world) is MigrationReason.DRAIN
    begins = view(world, "begins")
    assert (begins.status, begins.gpu, begins.attempt, begins.losses) == (JobStatus.QUEUED, None, 2, 0)


def test_a_drained_gpu_gives_away_the_jobs_of_replicas_that_another_gpu_leads(world: World, database: Database) -> None:
    follower = GpuId(GPU.node, 1)
    for gpu in (GPU, follower, OTHER_GPU, GpuId(OTHER_GPU.node, 1)):
        world.add_gpu(gpu, f"worker-{gpu}")
    places = {"decodes": (GPU, follower), "begins": (GPU, follower), "alone": (GPU,)}
    for job_id, gpus in places.items():
        world.live.jobs.create(job_spec(job_id), fast_path=False)
        new = NewReplica(model=model_info(), gpus=gpus)
        assert world.apply(job_id, f"of-{job_id}", new) is Applied.OK
        claim = world.claim(job_id, worker=f"worker-{GPU}")
        world.live.fleet.replica_ready(f"of-{job_id}")
        if job_id == "decodes":
            world.append(claim, 0)
    world.live.fleet.beat_node(NodeInfo(name=OTHER_GPU.node, checkpoints=frozenset({"c"})), world.live.now_ms())
    with database.transaction() as session:
        drain(session, str(follower), by="key_1", now=datetime.now(UTC))
    Relocation(database, world.live, Mover(world.live)).step()
    assert reason_of_the_move(world) is MigrationReason.DRAIN
    assert [view(world, job_id).gpu for job_id in ("begins", "alone")] == [None, GPU]


def test_a_worker_that_leaves_keeps_what_it_has_begun(world: World, relocation: Relocation) -> None:
    world.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    relocation.step()
    assert reason_of_the_move(world) is MigrationReason.SHUTDOWN
    assert view(world, "begins").gpu == GPU


def test_jobs_that_decode_and_have_nowhere_to_go_stay(world: World, database: Database, relocation: Relocation) -> None:
    world.live.fleet.reap_gpu(OTHER_GPU, "worker_b")
    with database.transaction() as session:
        drain(session, str(GPU), by="key_1", now=datetime.now(UTC))
    relocation.step()
    decodes = view(world, "decodes")
    assert (decodes.gpu, decodes.migration_id) == (GPU, "")


def test_of_many_jobs_two_leave_at_a_time_those_with_most_before_them_first(world: World, database: Database) -> None:
    claims = {"short": world.running_job("short")}
    for name, max_tokens in {"long": 30, "longer": 40}.items():
        world.live.jobs.create(job_spec(name, params=SamplingParams(max_tokens=max_tokens, seed=7)))
        claims[name] = world.claim(name)
    for claim in claims.values():
        world.append(claim, 0)
    world.add_gpu(OTHER_GPU, "worker_b", replica_order("replica_2", gpu=OTHER_GPU))
    world.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    relocation = Relocation(database, world.live, Mover(world.live))

    def moving() -> set[str]:
        relocation.step()
        return {name for name in claims if view(world, name).migration_id}

    assert moving() == moving() == {"long", "longer"}
    world.live.jobs.finish(claims["long"], SUCCEEDED)
    assert moving() == {"short", "longer"}
