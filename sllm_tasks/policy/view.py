"""The cluster as a decision sees it: frozen, complete, and easy to change into what it would be afterwards."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sllm_tasks.cluster import (
    Gpu,
    GpuId,
    GpuState,
    Hold,
    ModelInfo,
    NodeInfo,
    Replica,
    ReplicaShape,
    ReplicaState,
    Tier,
)
from sllm_tasks.policy.replica_table import ReplicaTable


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
    #: Cluster time in ms at which it was accepted: its place among its tenant's.
    created_ms: int = 0
    #: From when on it has waited for a place without having, or being forbidden, one: later than it was accepted if it
    #: ran, or stood at a limit. 0: nobody knows.
    waits_since_ms: int = 0
    #: One more dead worker and it ends as poison, so it does not share a gpu with another suspect.
    suspect: bool = False
    prompt_tokens: int = 0
    max_tokens: int = 0
    #: Whose it is, and in which class: together with priority and age they say whose turn it is.
    tenant: str = ""
    job_class: str = "interactive"
    #: Cluster time in ms after which it is not to be started any more.
    deadline_ms: int | None = None
    #: What is being emptied for it.
    hold: Hold | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningJob:
    """A job that has its place."""

    id: str
    model: str
    prompt_tokens: int
    max_tokens: int
    #: Cluster time in ms of its first token; None before that.
    started_ms: int | None
    #: Tokens that it has produced, None where nobody counted them: then its age tells.
    num_tokens: int | None = None
    #: Whether a move of it could begin now.
    may_move: bool = True
    #: The replica that it is on its way to, empty when it does not move.
    moves_to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadUnderWay:
    """A replica that is being loaded, or waits for its turn."""

    replica_id: str
    gpus: tuple[GpuId, ...]
    #: The slowest one on its way.
    tier: Tier
    #: Still to come, when that was noted.
    remaining_bytes: int
    #: Time since then; 0 for a load that has not begun.
    age_s: float = 0.0

    @property
    def node(self) -> str:
        """Whose loader it uses."""
        return self.gpus[0].node


@dataclass(frozen=True, slots=True)
class Queue:
    """Interactive jobs of a model that wait, those of one tenant."""

    num_jobs: int
    #: Since when the one that has waited for the longest time has.
    oldest_ms: int


def queues_of(jobs: Iterable[WaitingJob]) -> dict[str, dict[str, Queue]]:
    """Count waiting jobs by model and tenant; those of class `batch` are in nobody's way."""
    queues: dict[str, dict[str, Queue]] = {}
    for job in jobs:
        if job.job_class == "batch":
            continue
        of_model = queues.setdefault(job.model, {})
        before = of_model.get(job.tenant, Queue(0, job.waits_since_ms))
        of_model[job.tenant] = Queue(before.num_jobs + 1, min(before.oldest_ms, job.waits_since_ms))
    return queues


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """Everything a decision may depend on; `now_ms` is cluster time."""

    now_ms: int
    gpus: Mapping[GpuId, Gpu] = field(default_factory=dict)
    replicas: ReplicaTable = field(default_factory=ReplicaTable)
    nodes: Mapping[str, NodeInfo] = field(default_factory=dict)
    models: Mapping[str, ModelInfo] = field(default_factory=dict)
    #: Jobs of replicas, as far as they are known: a replica that is not here has `num_jobs` of which nothing is.
    running: Mapping[str, tuple[RunningJob, ...]] = field(default_factory=dict)
    #: Loads by node.
    loads: Mapping[str, tuple[LoadUnderWay, ...]] = field(default_factory=dict)
    #: Jobs of a model that wait and come before the one that is decided for.
    num_waiting: Mapping[str, int] = field(default_factory=dict)
    #: Jobs that waited as a pass began, by model and tenant.
    queues: Mapping[str, Mapping[str, Queue]] = field(default_factory=dict)

    def model_of(self, job: WaitingJob) -> ModelInfo:
        """A job's model as it was when the job was accepted; KeyError if it is not served any more."""
        model = self.models[job.model]
        shape = job.shape or model.shape
        if shape == model.shape and job.checkpoint in {None, model.checkpoint}:
            return model
        return replace(
            model,
            checkpoint=job.checkpoint or model.checkpoint,
            engine=shape.engine,
            num_gpus=shape.num_gpus,
            bytes_per_gpu=shape.bytes_per_gpu,
            max_jobs=shape.max_jobs,
            context=shape.context,
        )

    def is_up(self, replica: Replica) -> bool:
        """Whether all of its gpus take work: one that is drained leaves its replicas in their state."""
        return all(gpu in self.gpus and self.gpus[gpu].state is GpuState.UP for gpu in replica.gpus)

    def takes_jobs(self, replica: Replica) -> bool:
        """Whether it serves now or soon, and its gpus take work."""
        return replica.takes_jobs and self.is_up(replica)

    def replicas_of(self, model: str) -> list[Replica]:
        """Replicas of a model that are not on their way out, nor on gpus that are."""
        return [replica for replica in self.replicas.of_model(model) if self.takes_jobs(replica)]

    def serving(self, model: ModelInfo) -> list[Replica]:
        """Replicas that a job of that checkpoint and shape may run on."""
        return [replica for replica in self.replicas_of(model.name) if replica.serves(model.checkpoint, model.shape)]

    def takes(self, gpu: GpuId, job: WaitingJob) -> bool:
        """Whether a job may run on a gpu, as far as other jobs there are concerned."""
        return not (job.suspect and gpu in self.gpus and self.gpus[gpu].suspect)

    def tiers_of(self, checkpoint: str) -> dict[str, Tier]:
        """The slowest tier that a load of a checkpoint passes, for each node that can load it.

        What a node has in DRAM counts if its SSD has it as well: a worker opens the files there.
        """
        tiers = {
            name: self.tier_on(name, checkpoint) for name, node in self.nodes.items() if checkpoint in node.checkpoints
        }
        if any(self.nodes[name].url is not None for name in tiers):
            tiers |= {name: Tier.REMOTE for name in self.nodes if name not in tiers}
        return tiers

    def tier_on(self, node: str, checkpoint: str) -> Tier:
        """The slowest tier that a load on one node passes."""
        here = self.nodes.get(node)
        if here is None or checkpoint not in here.checkpoints:
            return Tier.REMOTE
        return Tier.DRAM if checkpoint in here.in_dram else Tier.SSD

    def usable_gpus(self, nodes: Container[str]) -> list[Gpu]:
        """Gpus of some nodes that take work."""
        return [gpu for gpu in self.gpus.values() if gpu.state is GpuState.UP and gpu.id.node in nodes]

    def with_jobs_on(self, replica_id: str, num_jobs: int = 1) -> ClusterView:
        """The view after jobs were reserved on a replica."""
        replica = self.replicas[replica_id]
        changed = replace(replica, num_jobs=replica.num_jobs + num_jobs)
        return replace(self, replicas=self.replicas.with_replicas([changed]))

    def with_draining(self, replica_ids: Iterable[str]) -> ClusterView:
        """The view after replicas stopped taking jobs."""
        return self._with_state(replica_ids, ReplicaState.DRAINING)

    def with_open(self, replica_ids: Iterable[str]) -> ClusterView:
        """The view after such replicas take jobs again."""
        return self._with_state(replica_ids, ReplicaState.READY)

    def with_suspect(self, gpu: GpuId, job_id: str) -> ClusterView:
        """The view after a suspect job was sent to a gpu."""
        return replace(self, gpus={**self.gpus, gpu: replace(self.gpus[gpu], suspect=job_id)})

    def with_running(self, running: Mapping[str, tuple[RunningJob, ...]]) -> ClusterView:
        """The view with what is known of the jobs of replicas."""
        return replace(self, running=running)

    def without_replicas(self, replica_ids: Iterable[str]) -> ClusterView:
        """The view after replicas were told to go: their memory may be promised to others at once."""
        gone = [self.replicas[id_] for id_ in replica_ids]
        gpus = dict(self.gpus)
        for replica in gone:
            # What is being unloaded has given its memory away already.
            if replica.state is not ReplicaState.UNLOADING:
                _reserve(gpus, replica, -replica.bytes_per_gpu)
        return replace(self, gpus=gpus, replicas=self.replicas.without(replica.id for replica in gone))

    def hiding(self, replica_ids: Iterable[str]) -> ClusterView:
        """The view of those who can do nothing with some replicas, which keep their memory."""
        return replace(self, replicas=self.replicas.without(replica_ids))

    def without_memory(self, num_bytes: Mapping[GpuId, int]) -> ClusterView:
        """The view of those to whom so much of some gpus may not be promised."""
        gpus = {id_: gpu for id_, gpu in self.gpus.items() if num_bytes.get(id_)}
        less = {id_: replace(gpu, reserved_bytes=gpu.reserved_bytes + num_bytes[id_]) for id_, gpu in gpus.items()}
        return replace(self, gpus={**self.gpus, **less})

    def with_replica(self, new: Replica, load: LoadUnderWay | None = None) -> ClusterView:
        """The view after a replica got its memory, and its load joined its node's queue."""
        gpus = dict(self.gpus)
        _reserve(gpus, new, new.bytes_per_gpu)
        loads = self.loads
        if load is not None:
            loads = {**loads, load.node: (*loads.get(load.node, ()), load)}
        return replace(self, gpus=gpus, replicas=self.replicas.with_replicas([new]), loads=loads)

    def _with_state(self, replica_ids: Iterable[str], state: ReplicaState) -> ClusterView:
        changed = [replace(self.replicas[id_], state=state) for id_ in replica_ids]
        return replace(self, replicas=self.replicas.with_replicas(changed)) if changed else self


def _reserve(gpus: dict[GpuId, Gpu], replica: Replica, num_bytes: int) -> None:
    for gpu in replica.gpus:
        # The gpu of a worker that died a moment ago may be gone already.
        if gpu in gpus:
            gpus[gpu] = replace(gpus[gpu], reserved_bytes=gpus[gpu].reserved_bytes + num_bytes)
