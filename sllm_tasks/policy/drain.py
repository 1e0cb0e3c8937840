"""Which replicas stop taking jobs so that a job of another model gets its turn.

Without this a model in steady use keeps its memory for good: a warm replica serves every new job of its model at once,
however long a job of another model has been waiting for that memory.
"""

from __future__ import annotations

from sllm_tasks.cluster import GpuId, Replica, ReplicaState
from sllm_tasks.policy.view import ClusterView, WaitingJob

#: How long a job waits for memory before somebody makes room, and how long a replica serves before it has to: long
#: against a load of a few seconds, so that two models that share a gpu are not loaded in turns for every job.
TURN_MS = 5_000


def replicas_to_drain(view: ClusterView, job: WaitingJob) -> tuple[str, ...]:
    """Pick replicas for a job that `assign` lets wait; empty when it is not due, or when room is being made already.

    They are all on one gpu: the one where the fewest jobs have to end first.
    """
    if job.model not in view.models or view.now_ms - job.created_ms < TURN_MS:
        return ()
    model = view.model_of(job)
    replicas = [replica for replica in view.replicas_of(model.name) if replica.serves(model.checkpoint, model.shape)]
    if len(replicas) >= model.max_replicas:
        return ()
    occupied = {gpu for replica in replicas for gpu in replica.gpus}
    options: list[tuple[int, GpuId, tuple[str, ...]]] = []
    for gpu in view.usable_gpus({name for name, node in view.nodes.items() if model.checkpoint in node.checkpoints}):
        if gpu.id in occupied or not view.takes(gpu.id, job):
            continue
        missing_bytes = model.bytes_per_gpu - gpu.free_bytes - _bytes_to_come(view, gpu.id)
        if missing_bytes <= 0:
            return ()
        drained = _fewest_jobs(_drainable(view, gpu.id), missing_bytes)
        if drained:
            num_jobs = sum(replica.num_jobs for replica in drained)
            options.append((num_jobs, gpu.id, tuple(replica.id for replica in drained)))
    return min(options)[2] if options else ()


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
