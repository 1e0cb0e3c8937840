"""Which replicas stop taking jobs so that a job of another model gets its turn.

Without this a model in steady use keeps its memory for good: a warm replica serves every new job of its model at once,
however long a job of another model has been waiting for that memory.
"""

from __future__ import annotations

from sllm_tasks.cluster import Gpu, GpuId, Replica, ReplicaState
from sllm_tasks.policy.view import ClusterView, WaitingJob

#: How long a job waits for memory before somebody makes room, and how long a replica serves before it has to: long
#: against a load of a few seconds, so that two models that share a gpu are not loaded in turns for every job.
TURN_MS = 5_000

#: How many jobs have to end, on which gpu, and the replicas that have them.
_Drained = tuple[int, GpuId, tuple[str, ...]]


def replicas_to_drain(view: ClusterView, job: WaitingJob) -> tuple[str, ...]:
    """Pick replicas for a job that `assign` lets wait; empty when it is not due, or when room is being made already.

    They are all on one node, on as many of its gpus as the model takes: those where the fewest jobs have to end first.
    """
    if job.model not in view.models or view.now_ms - job.created_ms < TURN_MS:
        return ()
    model = view.model_of(job)
    replicas = view.serving(model)
    if len(replicas) >= model.max_replicas:
        return ()
    occupied = {gpu for replica in replicas for gpu in replica.gpus}
    by_node: dict[str, list[_Drained]] = {}
    nodes = {name for name, node in view.nodes.items() if model.checkpoint in node.checkpoints}
    for gpu in view.usable_gpus(nodes):
        if gpu.id not in occupied and view.takes(gpu.id, job):
            drained = _drained(view, gpu, model.bytes_per_gpu)
            if drained is not None:
                by_node.setdefault(gpu.id.node, []).append(drained)
    chosen = [sorted(options)[: model.num_gpus] for options in by_node.values() if len(options) >= model.num_gpus]
    if not chosen:
        return ()
    cheapest = min(chosen, key=lambda options: (sum(num_jobs for num_jobs, _, _ in options), options))
    return tuple(dict.fromkeys(replica_id for _, _, replica_ids in cheapest for replica_id in replica_ids))


def _drained(view: ClusterView, gpu: Gpu, num_bytes: int) -> _Drained | None:
    """How few jobs have to end so that a gpu gets free; none where it is or will be; None where that is not enough."""
    missing_bytes = num_bytes - gpu.free_bytes - _bytes_to_come(view, gpu.id)
    if missing_bytes <= 0:
        return 0, gpu.id, ()
    replicas = _fewest_jobs(_drainable(view, gpu.id), missing_bytes)
    if not replicas:
        return None
    return sum(replica.num_jobs for replica in replicas), gpu.id, tuple(replica.id for replica in replicas)


def _bytes_to_come(view: ClusterView, gpu: GpuId) -> int:
    """Memory that is idle, or will be without anybody doing anything."""
    return sum(
        replica.bytes_per_gpu
        for replica in view.replicas.on_gpu(gpu)
        if (replica.state is ReplicaState.DRAINING or (replica.state is ReplicaState.READY and replica.num_jobs == 0))
    )


def _drainable(view: ClusterView, gpu: GpuId) -> list[Replica]:
    """Busy replicas that have had their turn, those with the fewest jobs first."""
    busy = [
        replica
        for replica in view.replicas.on_gpu(gpu)
        if replica.state is ReplicaState.READY and replica.num_jobs and view.now_ms - replica.ready_ms >= TURN_MS
    ]
    return sorted(busy, key=lambda replica: (replica.num_jobs, replica.id))


def _fewest_jobs(replicas: list[Replica], missing_bytes: int) -> list[Replica]:
    """Take replicas until their memory is enough; empty when all of them are not."""
    taken = []
    for replica in replicas:
        if missing_bytes <= 0:
            break
        taken.append(replica)
        missing_bytes -= replica.bytes_per_gpu
    return taken if missing_bytes <= 0 else []
