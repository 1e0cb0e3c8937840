"""Where a waiting job should run: every option priced, the cheapest taken."""

from __future__ import annotations

from sllm_tasks.cluster import Gpu, ModelInfo, Replica, ReplicaState
from sllm_tasks.estimators.base import Estimates
from sllm_tasks.policy.decision import Assignment, AssignmentPath, Decision
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, WaitingJob


def assign(view: ClusterView, job: WaitingJob, estimates: Estimates, settings: PolicySettings) -> Decision:  # noqa: ARG001
    """Decide for one job."""
    return Decision(choice=_choose(view, job))


def _choose(view: ClusterView, job: WaitingJob) -> Assignment:
    if job.model not in view.models:
        return _wait(f"model {job.model} is not deployed")
    # A job keeps the checkpoint and the shape it was accepted for, also when its model was deployed again since.
    model = view.model_of(job)
    replicas = [replica for replica in view.replicas_of(model.name) if replica.serves(model.checkpoint, model.shape)]
    if (replica := _with_room([replica for replica in replicas if view.takes(replica.leader, job)])) is not None:
        return Assignment(path=AssignmentPath.WARM, replica_id=replica.id)
    if len(replicas) >= model.max_replicas:
        return _wait(f"all {len(replicas)} replicas are full and max_replicas is {model.max_replicas}")
    gpus = view.usable_gpus(model.checkpoint)
    if not gpus:
        return _wait("no live node has the checkpoint")
    gpus = [gpu for gpu in gpus if view.takes(gpu.id, job)]
    if not gpus:
        return _wait("every gpu runs a job that may have killed workers, as this one may have")
    # A second copy beside the first would take memory and give no speed: one engine thread steps both.
    occupied = {gpu for replica in replicas for gpu in replica.gpus}
    gpus = [gpu for gpu in gpus if gpu.id not in occupied]
    if not gpus:
        return _wait("its replicas are full, and every gpu that could load another has one")
    fitting = [gpu for gpu in gpus if gpu.free_bytes >= model.bytes_per_gpu]
    if fitting:
        # Spread: the emptiest gpu keeps the most room for the others.
        best = max(fitting, key=lambda gpu: (gpu.free_bytes, gpu.id))
        return Assignment(path=AssignmentPath.LOAD_SSD, gpus=(best.id,))
    return _evicting(view, model, gpus)


def _with_room(replicas: list[Replica]) -> Replica | None:
    """Pick the ready replica with the fewest jobs, else one that is still being loaded."""
    open_replicas = [replica for replica in replicas if replica.has_room]
    return min(
        open_replicas,
        key=lambda replica: (replica.state is not ReplicaState.READY, replica.num_jobs, replica.id),
        default=None,
    )


def _evicting(view: ClusterView, model: ModelInfo, gpus: list[Gpu]) -> Assignment:
    """Evict idle replicas from the gpu where the newest of the victims was unused longest."""
    options = []
    for gpu in gpus:
        free_bytes, victims = gpu.free_bytes, []
        for replica in _idle_on(view, gpu):
            if free_bytes >= model.bytes_per_gpu:
                break
            free_bytes += replica.bytes_per_gpu
            victims.append(replica)
        if free_bytes >= model.bytes_per_gpu:
            needed = _needed(victims, free_bytes - model.bytes_per_gpu)
            options.append((needed[-1].idle_since_ms, gpu.id, tuple(victim.id for victim in needed)))
    if not options:
        return _wait("no gpu has the memory, and what is loaded is in use")
    _, gpu_id, victim_ids = min(options)
    return Assignment(path=AssignmentPath.LOAD_SSD, gpus=(gpu_id,), victims=victim_ids)


def _idle_on(view: ClusterView, gpu: Gpu) -> list[Replica]:
    """Loaded replicas without jobs on a gpu: those that take no more first, then those unused longest."""
    loaded = {ReplicaState.READY, ReplicaState.DRAINING}
    idle = [replica for replica in view.replicas.on_gpu(gpu.id) if replica.state in loaded and replica.num_jobs == 0]
    return sorted(idle, key=lambda replica: (replica.takes_jobs, replica.idle_since_ms, replica.id))


def _needed(victims: list[Replica], surplus_bytes: int) -> list[Replica]:
    """Spare victims that need not go after all, the most recently used first; the last one always has to."""
    needed = []
    for victim in reversed(victims):
        if victim.bytes_per_gpu <= surplus_bytes:
            surplus_bytes -= victim.bytes_per_gpu
        else:
            needed.append(victim)
    return needed[::-1]


def _wait(reason: str) -> Assignment:
    return Assignment(path=AssignmentPath.WAIT, reason=reason)
