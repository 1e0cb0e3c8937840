"""Running jobs for a decision: those of a few replicas, read when it depends on them."""

from __future__ import annotations

from collections.abc import Iterable

from sllm_tasks.cluster import Replica, ReplicaState
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.router import PlacedJob
from sllm_tasks.policy.view import ClusterView, RunningJob, WaitingJob


def with_running_jobs(live: LiveState, view: ClusterView, job: WaitingJob) -> ClusterView:
    """Add what a decision about waiting for a slot needs to know, or for gpus that are being emptied.

    A warm replica with room needs nothing.
    """
    if job.model not in view.models:
        return view
    serving = view.serving(view.model_of(job))
    if any(replica.has_room for replica in serving):
        return view
    gpus = job.hold.gpus if job.hold is not None else ()
    leaving = [
        replica for gpu in gpus for replica in view.replicas.on_gpu(gpu) if replica.state is ReplicaState.DRAINING
    ]
    return with_jobs_of(live, view, [*serving, *leaving])


def with_jobs_of(live: LiveState, view: ClusterView, replicas: Iterable[Replica]) -> ClusterView:
    """Add the jobs of replicas, unless they are known."""
    unknown = [replica for replica in replicas if replica.id not in view.running]
    if not unknown:
        return view
    found: dict[str, list[RunningJob]] = {replica.id: [] for replica in unknown}
    placed = [
        job for job in live.router.placed_jobs(sorted({each.leader for each in unknown})) if job.replica_id in found
    ]
    moving = sorted({job.migration_id for job in placed if job.migration_id})
    targets = {found.id: found.target_replica for found in live.migrations.many(moving) if found is not None}
    for job in placed:
        found[job.replica_id].append(_running(view, job, targets.get(job.migration_id, "")))
    return view.with_running({**view.running, **{id_: tuple(jobs) for id_, jobs in found.items()}})


def _running(view: ClusterView, job: PlacedJob, moves_to: str) -> RunningJob:
    replica = view.replicas[job.replica_id]
    gpu = view.gpus.get(replica.leader)
    is_suspect = gpu is not None and gpu.suspect == job.job_id
    return RunningJob(
        id=job.job_id,
        model=replica.model,
        prompt_tokens=job.prompt_tokens,
        max_tokens=job.max_tokens,
        started_ms=job.first_token_ms,
        num_tokens=job.num_tokens,
        may_move=job.is_running and not job.migration_id and not is_suspect,
        moves_to=moves_to,
    )
