"""What a cluster is after a decision was carried out: the books that the next decision looks at."""

from __future__ import annotations

from collections.abc import Callable

from sllm_tasks.cluster import GpuId, ModelInfo, Replica, ReplicaState
from sllm_tasks.policy.decision import Assignment, Move
from sllm_tasks.policy.view import ClusterView, LoadUnderWay, WaitingJob


def loading_replica(
    model: ModelInfo, gpus: tuple[GpuId, ...], replica_id: str, *, now_ms: int, num_jobs: int = 1
) -> Replica:
    """A replica whose load begins."""
    return Replica(
        id=replica_id,
        model=model.name,
        checkpoint=model.checkpoint,
        gpus=gpus,
        state=ReplicaState.LOADING,
        bytes_per_gpu=model.bytes_per_gpu,
        max_jobs=model.max_jobs,
        engine=model.engine,
        context=model.context,
        num_jobs=num_jobs,
        idle_since_ms=now_ms,
    )


def carry_out(view: ClusterView, job: WaitingJob, assignment: Assignment, new_id: Callable[[], str]) -> ClusterView:
    """Do what was decided; `new_id` names the replicas that this takes, the job's own first.

    Memory of what goes is promised to what comes at once, as in the live cluster.
    """
    if assignment.replica_id is not None:
        view = view.with_jobs_on(assignment.replica_id)
        leader = view.replicas[assignment.replica_id].leader
    elif assignment.gpus:
        leader = assignment.gpus[0]
        new = loading_replica(view.model_of(job), assignment.gpus, new_id(), now_ms=view.now_ms)
        before, sources = view, {move.from_replica for move in assignment.moves}
        view = _with_load(view.without_replicas({*assignment.victims, *sources}), new, view.model_of(job))
        view = _with_moves(view, before, assignment.moves, new_id)
    else:
        return view
    return view.with_suspect(leader, job.id) if job.suspect else view


def begin_load(
    view: ClusterView, model: ModelInfo, gpus: tuple[GpuId, ...], victims: tuple[str, ...], replica_id: str
) -> ClusterView:
    """Load a replica that no job waits for yet."""
    new = loading_replica(model, gpus, replica_id, now_ms=view.now_ms, num_jobs=0)
    return _with_load(view.without_replicas(victims), new, model)


def _with_load(view: ClusterView, new: Replica, model: ModelInfo) -> ClusterView:
    tier = view.tier_on(new.leader.node, new.checkpoint)
    num_bytes = model.bytes_through(tier)
    return view.with_replica(new, LoadUnderWay(replica_id=new.id, gpus=new.gpus, tier=tier, remaining_bytes=num_bytes))


def _with_moves(
    view: ClusterView, before: ClusterView, moves: tuple[Move, ...], new_id: Callable[[], str]
) -> ClusterView:
    """Each job at its target; jobs of one replica that go to the same gpus share the replica that is loaded there."""
    made: dict[tuple[str, tuple[GpuId, ...]], str] = {}
    for move in moves:
        source = before.replicas[move.from_replica]
        key = (source.id, move.gpus)
        if move.to_replica is not None:
            view = view.with_jobs_on(move.to_replica)
        elif key in made:
            view = view.with_jobs_on(made[key])
        else:
            made[key] = new_id()
            new = Replica(
                id=made[key],
                model=source.model,
                checkpoint=source.checkpoint,
                gpus=move.gpus,
                state=ReplicaState.LOADING,
                bytes_per_gpu=source.bytes_per_gpu,
                max_jobs=source.max_jobs,
                engine=source.engine,
                context=source.context,
                num_jobs=1,
                idle_since_ms=view.now_ms,
            )
            view = _with_load(view.without_replicas(move.victims), new, before.models[source.model])
    return view
