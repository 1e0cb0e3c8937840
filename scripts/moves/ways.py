"""Three ways to bring a running job to another replica, of which the product has one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from scripts.moves.cluster import MovingCluster
from scripts.waiting import wait_until
from sllm_tasks.client import Job, calls
from sllm_tasks.jobs import StartKind
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.livestate.router import Applied, NewReplica
from sllm_tasks.migration.records import Migration
from sllm_tasks.migration.states import MigrationState


class Way(StrEnum):
    """How a job gets to another replica."""

    #: The target catches up in rounds while the source goes on.
    MIGRATION = "migration"
    #: The source stops, and a target that is told so at once reads everything.
    SINGLE_ROUND = "single round"
    #: The source stops, the job waits for the router, and whoever gets it reads everything.
    RESTART = "restart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """How it went; times are cluster milliseconds."""

    #: The first token that came from the target.
    index: int
    began_ms: int
    ended_ms: int
    #: None for the ways that are no migration.
    migration: Migration | None = None


def move(cluster: MovingCluster, job: Job, way: Way) -> Moved | None:
    """Bring a job to another replica; None if that did not come about."""
    began_ms = cluster.live.now_ms()
    if way is Way.MIGRATION:
        return _migrate(cluster, job, began_ms)
    before = cluster.view(job)
    target = _other_replica(cluster, before.replica_id) if way is Way.SINGLE_ROUND else None
    num_tokens = take_back(cluster, job)
    if target is None:
        cluster.services.dispatcher.route()
    else:
        place(cluster, job, target)
    wait_until(lambda: cluster.view(job).num_tokens > num_tokens, f"{job.id} goes on")
    return Moved(index=num_tokens, began_ms=began_ms, ended_ms=cluster.live.now_ms())


def _migrate(cluster: MovingCluster, job: Job, began_ms: int) -> Moved | None:
    migration_id = cluster.client.run(calls.start_migration(job.id))["id"]

    def ended() -> Migration | None:
        found = cluster.live.migrations.get(migration_id)
        return found if found is not None and found.state.is_terminal else None

    wait_until(lambda: ended() is not None, f"the end of {migration_id}")
    migration = ended()
    if migration is None or migration.state is not MigrationState.SUCCEEDED:
        print(f"{job.id} did not move: {migration and migration.error}", flush=True)
        return None
    return Moved(index=migration.num_sent, began_ms=began_ms, ended_ms=cluster.live.now_ms(), migration=migration)


def _other_replica(cluster: MovingCluster, replica_id: str) -> str:
    fleet = cluster.live.fleet
    return next(id_ for gpu in fleet.gpus() for id_ in fleet.replicas_on(gpu.id) if id_ != replica_id)


def take_back(cluster: MovingCluster, job: Job) -> int:
    """Give a running job back as its worker would if it had to leave; returns the tokens that it has."""
    spec, view = cluster.live.jobs.spec(job.id), cluster.view(job)
    epoch = cluster.redis.hget(f"sllm:job:{job.id}", "epoch")
    if spec is None or epoch is None:
        raise SystemExit(f"{job.id} is gone")
    claim = Claim(
        spec=spec, attempt=view.attempt, epoch=int(epoch), replica_id=view.replica_id, start_kind=StartKind.WARM
    )
    cluster.live.jobs.release(claim, "bench")
    return cluster.view(job).num_tokens


def place(
    cluster: MovingCluster,
    job: Job,
    replica_id: str,
    *,
    start_kind: StartKind = StartKind.WARM,
    new: NewReplica | None = None,
) -> None:
    """Do what the router would with a job that waits, without its queue and its turn."""
    epoch = cluster.redis.get("sllm:router:epoch")
    answer = cluster.live.router.apply(
        epoch=int(epoch or 0),
        job_id=job.id,
        attempt=cluster.view(job).attempt,
        replica_id=replica_id,
        start_kind=start_kind,
        decision_id="",
        new=new,
    )
    order = cluster.live.fleet.replica(replica_id)
    if answer is not Applied.OK or order is None:
        raise SystemExit(f"{job.id} is not placed: {answer}")
    cluster.services.dispatcher.run_job(order.replica.leader, job.id, cluster.view(job).attempt)
