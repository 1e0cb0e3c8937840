"""Which replicas stop taking jobs so that a job of another model gets its turn, and which of them take jobs again.

Without this a model in steady use keeps its memory for good: a warm replica serves every new job of its model at once,
however long a job of another model has been waiting for that memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, Replica, ReplicaState, Tier
from sllm_tasks.policy.queueing import Kind, oldest_of_kinds
from sllm_tasks.policy.view import ClusterView, WaitingJob

#: How long a job waits for memory before somebody makes room, and how long a replica serves before it has to: long
#: against a load of a few seconds, so that two models that share a gpu are not loaded in turns for every job, and of
#: the order of a job, so that places that get free anyway are not made (docs/evaluation.md, Turns).
TURN_MS = 15_000
#: A replica whose model has waiting jobs itself makes room only for a job that has waited so many times as long as
#: those of its tenant there, or for `MAX_WAIT_MS`: a flood, or a job that cannot start, holds nobody else up.
PATIENCE, MAX_WAIT_MS = 2, 120_000

#: What it costs to close replicas (`_cost`), on which gpu, and which.
_Drained = tuple[float, GpuId, tuple[str, ...]]


def replicas_to_drain(view: ClusterView, job: WaitingJob) -> tuple[str, ...]:
    """Pick replicas for a job that `assign` lets wait; empty when it is not due, or when room is being made already.

    They are all on one node, on as many of its gpus as the model takes: those where the fewest jobs have to end first,
    or would miss the place.
    """
    gpus = _gpus_due(view, job)
    if not gpus:
        return ()
    model = view.model_of(job)
    by_node: dict[str, list[_Drained]] = {}
    for gpu in gpus:
        drained = _drained(view, gpu, model.bytes_per_gpu, job)
        if drained is not None:
            by_node.setdefault(gpu.id.node, []).append(drained)
    chosen = [sorted(options)[: model.num_gpus] for options in by_node.values() if len(options) >= model.num_gpus]
    if not chosen:
        return ()
    cheapest = min(chosen, key=lambda options: (sum(cost for cost, _, _ in options), options))
    return tuple(dict.fromkeys(replica_id for _, _, replica_ids in cheapest for replica_id in replica_ids))


def replicas_to_open(view: ClusterView, jobs: Iterable[WaitingJob]) -> tuple[str, ...]:
    """Pick closed replicas for which jobs wait, and none that they would be closed for now.

    `jobs` is all that wait for a place, also for one that their tenant may not have yet. So places do not stay empty
    while both wait, and a replica that was closed for moves which came to nothing is not lost. One that has no jobs
    left has made room, and one whose jobs are on the move is about to.
    """
    closed = [replica for replica in view.replicas.values() if _is_closed(view, replica)]
    if not closed:
        return ()
    claims = [job for job in oldest_of_kinds(jobs) if job.model in view.models]
    gpus = {Kind.of(job): {gpu.id for gpu in _gpus_due(view, job)} for job in claims}
    opened: list[str] = []
    for replica in closed:
        own, others = list[WaitingJob](), list[WaitingJob]()
        for job in claims:
            if _is_served(view, job, replica):
                own.append(job)
            elif not gpus[Kind.of(job)].isdisjoint(replica.gpus):
                others.append(job)
        if _has_place(view, replica, own) and not any(_has_had_its_turn(view, replica, job) for job in others):
            opened.append(replica.id)
            view = view.with_open([replica.id])
    return tuple(opened)


def _is_closed(view: ClusterView, replica: Replica) -> bool:
    """Whether a replica drains that might as well go on: its gpus take work, and jobs of its model may start."""
    return (
        replica.state is ReplicaState.DRAINING
        and replica.num_jobs > 0
        and replica.model in view.queues
        and view.is_up(replica)
        and not any(job.moves_to for job in view.running.get(replica.id, ()))
    )


def _is_served(view: ClusterView, job: WaitingJob, replica: Replica) -> bool:
    model = view.model_of(job)
    return job.model == replica.model and replica.serves(model.checkpoint, model.shape)


def _has_place(view: ClusterView, replica: Replica, jobs: list[WaitingJob]) -> bool:
    """Whether a model whose jobs wait may have this replica beside those that were loaded since it was closed."""
    if not jobs:
        return False
    model = view.model_of(jobs[0])
    serving = view.serving(model)
    beside = {gpu for each in serving for gpu in each.gpus}
    return len(serving) < model.max_replicas and beside.isdisjoint(replica.gpus)


def _gpus_due(view: ClusterView, job: WaitingJob) -> list[Gpu]:
    """Gpus where room may be made for a job; none for one that has not waited long enough, or is not to have more."""
    if job.model not in view.models or view.now_ms - job.waits_since_ms < TURN_MS:
        return []
    model = view.model_of(job)
    replicas = view.serving(model)
    if len(replicas) >= model.max_replicas:
        return []
    occupied = {gpu for replica in replicas for gpu in replica.gpus}
    return [gpu for gpu in _gpus_for(view, model) if gpu.id not in occupied and view.takes(gpu.id, job)]


def _gpus_for(view: ClusterView, model: ModelInfo) -> list[Gpu]:
    """Gpus that could have a model: of nodes that would have to fetch it only where no other node could."""
    tiers = view.tiers_of(model.checkpoint)
    local = _large_gpus(view, model, {node for node, tier in tiers.items() if tier is not Tier.REMOTE})
    return local or _large_gpus(view, model, {node for node, tier in tiers.items() if tier is Tier.REMOTE})


def _large_gpus(view: ClusterView, model: ModelInfo, nodes: set[str]) -> list[Gpu]:
    """Gpus of the size that take work, on nodes that have as many as a replica takes."""
    large = [gpu for gpu in view.usable_gpus(nodes) if gpu.capacity_bytes >= model.bytes_per_gpu]
    num_large = Counter(gpu.id.node for gpu in large)
    return [gpu for gpu in large if num_large[gpu.id.node] >= model.num_gpus]


def _drained(view: ClusterView, gpu: Gpu, num_bytes: int, job: WaitingJob) -> _Drained | None:
    """What a gpu costs that gets free: nothing where it is or will be; None where closing all is not enough."""
    missing_bytes = num_bytes - gpu.free_bytes - _bytes_to_come(view, gpu.id)
    if missing_bytes <= 0:
        return 0.0, gpu.id, ()
    replicas = _cheapest(_drainable(view, gpu.id, job), missing_bytes)
    if not replicas:
        return None
    return sum(_cost(view, replica) for replica in replicas), gpu.id, tuple(replica.id for replica in replicas)


def _bytes_to_come(view: ClusterView, gpu: GpuId) -> int:
    """Memory that is idle, or will be without anybody doing anything."""
    # What is being unloaded has given its memory away already.
    held = [replica for replica in view.replicas.on_gpu(gpu) if replica.state is not ReplicaState.UNLOADING]
    return sum(
        replica.bytes_per_gpu
        for replica in held
        if not view.takes_jobs(replica) or (replica.state is ReplicaState.READY and replica.num_jobs == 0)
    )


def _drainable(view: ClusterView, gpu: GpuId, job: WaitingJob) -> list[Replica]:
    """Busy replicas that have had their turn, the cheapest first."""
    busy = [
        replica
        for replica in view.replicas.on_gpu(gpu)
        if replica.state is ReplicaState.READY and replica.num_jobs and view.is_up(replica)
        if _has_had_its_turn(view, replica, job)
    ]
    return sorted(busy, key=lambda replica: (_cost(view, replica), replica.id))


def _has_had_its_turn(view: ClusterView, replica: Replica, job: WaitingJob) -> bool:
    """Whether it is for a replica to make room for a job, not for the job to wait behind those of the replica."""
    queue = view.queues.get(replica.model, {}).get(job.tenant)
    behind_ms = 0 if queue is None else view.now_ms - queue.oldest_ms
    waits_ms = min(PATIENCE * behind_ms, MAX_WAIT_MS)
    return view.now_ms - replica.ready_ms >= TURN_MS and view.now_ms - job.waits_since_ms >= waits_ms


def _cost(view: ClusterView, replica: Replica) -> float:
    """Jobs that have to end there, and its share of those that wait for its model.

    The places of a closed replica stay empty until its last job has ended: least is lost where nobody would take them.
    """
    num_waiting = sum(queue.num_jobs for queue in view.queues.get(replica.model, {}).values())
    return replica.num_jobs + num_waiting / len(view.replicas_of(replica.model))


def _cheapest(replicas: list[Replica], missing_bytes: int) -> list[Replica]:
    """Take replicas until their memory is enough; empty when all of them are not."""
    taken = []
    for replica in replicas:
        if missing_bytes <= 0:
            break
        taken.append(replica)
        missing_bytes -= replica.bytes_per_gpu
    return taken if missing_bytes <= 0 else []
