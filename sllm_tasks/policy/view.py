"""The cluster as a decision sees it: frozen, complete, and easy to change into what it would be afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sllm_tasks.cluster import Gpu, GpuId, GpuState, ModelInfo, NodeInfo, Replica, ReplicaShape, ReplicaState


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingJob:
    """A job that needs a place."""

    id: str
    model: str
    attempt: int
    #: What it was accepted for; None: whatever its model serves now.
    checkpoint: str | None = None
    shape: ReplicaShape | None = None
    priority: int = 5
    created_ms: int = 0
    #: One more dead worker and it ends as poison, so it does not share a gpu with another suspect.
    suspect: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """Everything a decision may depend on; `now_ms` is cluster time."""

    now_ms: int
    gpus: Mapping[GpuId, Gpu] = field(default_factory=dict)
    replicas: Mapping[str, Replica] = field(default_factory=dict)
    nodes: Mapping[str, NodeInfo] = field(default_factory=dict)
    models: Mapping[str, ModelInfo] = field(default_factory=dict)

    def model_of(self, job: WaitingJob) -> ModelInfo:
        """A job's model as it was when the job was accepted; KeyError if it is not served any more."""
        model = self.models[job.model]
        shape = job.shape or model.shape
        return replace(
            model,
            checkpoint=job.checkpoint or model.checkpoint,
            engine=shape.engine,
            num_gpus=shape.num_gpus,
            bytes_per_gpu=shape.bytes_per_gpu,
            max_jobs=shape.max_jobs,
            context=shape.context,
        )

    def replicas_of(self, model: str) -> list[Replica]:
        """Replicas of a model that are not on their way out."""
        return [replica for replica in self.replicas.values() if replica.model == model and replica.takes_jobs]

    def idle_replicas_on(self, gpu: GpuId) -> list[Replica]:
        """Loaded replicas without jobs on a gpu: those that take no more first, then those unused longest."""
        loaded = {ReplicaState.READY, ReplicaState.DRAINING}
        idle = [
            replica
            for replica in self.replicas.values()
            if gpu in replica.gpus and replica.state in loaded and replica.num_jobs == 0
        ]
        return sorted(idle, key=lambda replica: (replica.takes_jobs, replica.idle_since_ms, replica.id))

    def takes(self, gpu: GpuId, job: WaitingJob) -> bool:
        """Whether a job may run on a gpu, as far as other jobs there are concerned."""
        return not (job.suspect and gpu in self.gpus and self.gpus[gpu].suspect)

    def usable_gpus(self, checkpoint: str) -> list[Gpu]:
        """Gpus that take work, on nodes that have the checkpoint."""
        return [
            gpu
            for gpu in self.gpus.values()
            if gpu.state is GpuState.UP
            and (node := self.nodes.get(gpu.id.node)) is not None
            and checkpoint in node.checkpoints
        ]

    def with_job_on(self, replica_id: str) -> ClusterView:
        """The view after a job was reserved on a replica."""
        replica = self.replicas[replica_id]
        return replace(self, replicas={**self.replicas, replica_id: replace(replica, num_jobs=replica.num_jobs + 1)})

    def with_draining(self, replica_ids: tuple[str, ...]) -> ClusterView:
        """The view after replicas stopped taking jobs."""
        draining = {id_: replace(self.replicas[id_], state=ReplicaState.DRAINING) for id_ in replica_ids}
        return replace(self, replicas={**self.replicas, **draining})

    def with_suspect(self, gpu: GpuId, job_id: str) -> ClusterView:
        """The view after a suspect job was sent to a gpu."""
        return replace(self, gpus={**self.gpus, gpu: replace(self.gpus[gpu], suspect=job_id)})

    def with_replica(self, new: Replica, victims: tuple[str, ...]) -> ClusterView:
        """The view after victims were evicted and a replica took their place."""
        replicas = {id_: replica for id_, replica in self.replicas.items() if id_ not in victims}
        gpus = dict(self.gpus)
        for victim in (self.replicas[id_] for id_ in victims):
            for gpu in victim.gpus:
                gpus[gpu] = replace(gpus[gpu], reserved_bytes=gpus[gpu].reserved_bytes - victim.bytes_per_gpu)
        for gpu in new.gpus:
            gpus[gpu] = replace(gpus[gpu], reserved_bytes=gpus[gpu].reserved_bytes + new.bytes_per_gpu)
        return replace(self, gpus=gpus, replicas={**replicas, new.id: new})
