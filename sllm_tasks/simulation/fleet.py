"""Jobs and replicas while they are simulated, and the view of them that policies decide on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, NodeInfo, Replica, ReplicaState, Tier
from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.policy.replica_table import ReplicaTable
from sllm_tasks.policy.view import ClusterView, LoadUnderWay, RunningJob, WaitingJob
from sllm_tasks.simulation.hardware import ModelHardware
from sllm_tasks.simulation.nodes import Node
from sllm_tasks.traces.records import TraceRequest


class SimOutcome(StrEnum):
    """How a simulated job stands at the end."""

    FINISHED = "finished"
    #: It did not start within its time.
    EXPIRED = "expired"
    #: The simulation ended before it did.
    UNFINISHED = "unfinished"


@dataclass(slots=True, kw_only=True, eq=False)
class SimJob:
    """A job: mutable, owned by the simulation."""

    id: str
    request: TraceRequest
    created_s: float
    #: Of prompt and answer, in decoded tokens; a prefilled token is a part of one.
    work: float
    prefill_work: float
    max_tokens: int
    attempt: int = 1
    replica: SimReplica | None = None
    #: When a loaded replica first had it; prompts before its own may have to be read first.
    started_s: float | None = None
    #: How long its own prompt is read.
    read_s: float | None = None
    first_token_s: float | None = None
    #: For how long it stood still after its start: migrated, killed, or lost with a node.
    paused_s: float = 0.0
    #: Since when it stands still, after its start.
    stopped_s: float | None = None
    work_done: float = 0.0
    ended_s: float | None = None
    outcome: SimOutcome = SimOutcome.UNFINISHED
    #: What was predicted when its place was decided: the path, the time of the decision, the time to its first token.
    path: str = ""
    decided_s: float = 0.0
    predicted: Estimate | None = None
    #: The sum of estimates that the prediction was made of.
    total: Estimate | None = None

    def as_waiting(self, now_s: float, deadline_s: float) -> WaitingJob:
        """The job as a policy sees it when it begins to wait."""
        return WaitingJob(
            id=self.id,
            model=self.request.model,
            attempt=self.attempt,
            created_ms=round(self.created_s * 1_000),
            waits_since_ms=round(now_s * 1_000),
            prompt_tokens=self.request.input_tokens,
            max_tokens=self.max_tokens,
            deadline_ms=round(deadline_s * 1_000),
        )

    def as_running(self) -> RunningJob:
        """The job on its replica; its tokens are not counted for policies, its age tells."""
        return RunningJob(
            id=self.id,
            model=self.request.model,
            prompt_tokens=self.request.input_tokens,
            max_tokens=self.max_tokens,
            started_ms=None if self.first_token_s is None else round(self.first_token_s * 1_000),
        )


@dataclass(slots=True, kw_only=True, eq=False)
class SimReplica:
    """A replica: mutable, owned by the simulation."""

    id: str
    model: ModelHardware
    info: ModelInfo
    node: Node
    gpus: tuple[GpuId, ...]
    state: ReplicaState = ReplicaState.LOADING
    #: Jobs that have a place on it.
    jobs: dict[str, SimJob] = field(default_factory=dict)
    #: Places promised to jobs that are being moved here.
    num_promised: int = 0
    created_s: float = 0.0
    idle_since_s: float = 0.0
    ready_s: float = 0.0
    #: When the prompts will have been read of those who have their turn.
    reading_until_s: float = 0.0
    #: Of its load; bytes are those through that tier (`ModelInfo.bytes_through`).
    tier: Tier = Tier.SSD
    remaining_bytes: int = 0
    #: Replicas whose jobs have to leave before its memory is free; empty once it may load.
    awaits: set[str] = field(default_factory=set)
    #: Its jobs are being moved away, and its memory is promised.
    is_leaving: bool = False
    load_s: float = 0.0

    def find_source(self) -> None:
        """Note where its bytes are now, and that all of them are to come."""
        self.tier = self.node.tier_of(self.info.checkpoint)
        self.remaining_bytes = self.info.bytes_through(self.tier)

    @property
    def num_jobs(self) -> int:
        """Places taken."""
        return len(self.jobs) + self.num_promised

    @property
    def holds_memory(self) -> bool:
        """Whether its gpus have its bytes already, or take them as they come."""
        return not self.awaits

    def as_replica(self) -> Replica:
        """The replica as policies see it."""
        return Replica(
            id=self.id,
            model=self.model.name,
            checkpoint=self.info.checkpoint,
            gpus=self.gpus,
            # Its memory is promised already, as that of a replica being unloaded.
            state=ReplicaState.UNLOADING if self.is_leaving else self.state,
            bytes_per_gpu=self.info.bytes_per_gpu,
            max_jobs=self.info.max_jobs,
            engine=self.info.engine,
            context=self.info.context,
            num_jobs=self.num_jobs,
            idle_since_ms=round(self.idle_since_s * 1_000),
            ready_ms=round(self.ready_s * 1_000),
        )


class Fleet:
    """All replicas on all nodes."""

    def __init__(self, nodes: Iterable[Node], models: Mapping[str, ModelInfo]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.models = models
        self.replicas: dict[str, SimReplica] = {}

    def view(self, now_s: float) -> ClusterView:
        """The cluster as it is now."""
        loads: dict[str, tuple[LoadUnderWay, ...]] = {}
        running: dict[str, tuple[RunningJob, ...]] = {}
        for replica in self.replicas.values():
            if replica.state is ReplicaState.LOADING:
                load = LoadUnderWay(
                    replica_id=replica.id,
                    gpus=replica.gpus,
                    tier=replica.tier,
                    remaining_bytes=max(0, replica.remaining_bytes),
                )
                loads[replica.node.name] = (*loads.get(replica.node.name, ()), load)
            if replica.jobs:
                running[replica.id] = tuple(job.as_running() for job in replica.jobs.values())
        return ClusterView(
            now_ms=round(now_s * 1_000),
            gpus=self._gpus(),
            replicas=ReplicaTable(replica.as_replica() for replica in self.replicas.values()),
            nodes=self._infos(),
            models=self.models,
            running=running,
            loads=loads,
        )

    def check(self) -> None:
        """Raise ValueError if a gpu holds more than it has, or a job has two places."""
        places: set[str] = set()
        for replica in self.replicas.values():
            if twice := places & set(replica.jobs):
                raise ValueError(f"jobs have two places: {sorted(twice)}")
            places |= set(replica.jobs)
            if replica.num_jobs > replica.info.max_jobs:
                raise ValueError(f"replica {replica.id} has {replica.num_jobs} jobs")
        for gpu, num_bytes in self._held_bytes().items():
            if num_bytes > self.nodes[gpu.node].hardware.gpu.memory_bytes:
                raise ValueError(f"gpu {gpu} holds {num_bytes} bytes")

    def _held_bytes(self) -> Counter[GpuId]:
        """What is in each gpu's memory, or on its way there."""
        return self._bytes_of(replica for replica in self.replicas.values() if replica.holds_memory)

    def _promised_bytes(self) -> Counter[GpuId]:
        """What each gpu will hold once everybody who leaves it has left."""
        return self._bytes_of(replica for replica in self.replicas.values() if not replica.is_leaving)

    def _bytes_of(self, replicas: Iterable[SimReplica]) -> Counter[GpuId]:
        num_bytes = Counter[GpuId]()
        for replica in replicas:
            for gpu in replica.gpus:
                num_bytes[gpu] += replica.info.bytes_per_gpu
        return num_bytes

    def _gpus(self) -> dict[GpuId, Gpu]:
        held, promised = self._held_bytes(), self._promised_bytes()
        return {
            gpu: Gpu(
                id=gpu,
                worker_id=str(gpu),
                device=node.hardware.gpu.name,
                capacity_bytes=node.hardware.gpu.memory_bytes,
                # Of who leaves only as much is promised as was asked for: the rest is not free before that one is gone.
                reserved_bytes=max(held[gpu], promised[gpu]),
            )
            for node in self.nodes.values()
            if node.is_up
            for gpu in node.gpus
        }

    def _infos(self) -> dict[str, NodeInfo]:
        return {name: node.info for name, node in self.nodes.items() if node.is_up}
