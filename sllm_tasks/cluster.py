"""What a cluster is made of: gpus, replicas and models as the router, the workers and the API see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: Names the queue of all models together; no model can have this name.
EVERY_MODEL: Final = "*"


class Tier(StrEnum):
    """Where the bytes of a checkpoint are, slowest first."""

    REMOTE = "remote"
    SSD = "ssd"
    DRAM = "dram"
    GPU = "gpu"


class GpuState(StrEnum):
    """Whether a gpu takes work."""

    UP = "up"
    #: Finishes what it has and takes nothing new.
    DRAINING = "draining"


class ReplicaState(StrEnum):
    """The life of a replica."""

    #: Memory is reserved; its worker loads the checkpoint.
    LOADING = "loading"
    #: Takes jobs.
    READY = "ready"
    #: Finishes the jobs that it has and takes no more, for a job of another model; may be opened again.
    DRAINING = "draining"
    #: Holds no jobs and takes none; its worker frees the memory.
    UNLOADING = "unloading"


REPLICA_TRANSITIONS: Mapping[ReplicaState, frozenset[ReplicaState]] = {
    ReplicaState.LOADING: frozenset({ReplicaState.READY, ReplicaState.UNLOADING}),
    ReplicaState.READY: frozenset({ReplicaState.DRAINING, ReplicaState.UNLOADING}),
    ReplicaState.DRAINING: frozenset({ReplicaState.READY, ReplicaState.UNLOADING}),
    ReplicaState.UNLOADING: frozenset(),
}


@dataclass(frozen=True, slots=True, order=True)
class GpuId:
    """One accelerator: a node's name and its index there. Its Celery queue carries the same name."""

    node: str
    index: int

    @classmethod
    def parse(cls, text: str) -> GpuId:
        """Read `<node>.<index>`; raises ValueError for anything else."""
        node, separator, index = text.rpartition(".")
        if not (separator and node and index.isdigit()):
            raise ValueError(f"a gpu is written <node>.<index>, not {text!r}")
        return cls(node, int(index))

    @property
    def queue(self) -> str:
        """The Celery queue of the worker that owns this gpu."""
        return f"gpu.{self}"

    def __str__(self) -> str:
        return f"{self.node}.{self.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A gpu as its worker last reported it."""

    id: GpuId
    #: The worker process that owns it; a restarted worker has a new one.
    worker_id: str
    device: str
    capacity_bytes: int
    #: Sum over its replicas, loading ones included; the bytes of those being unloaded are promised to others already.
    reserved_bytes: int = 0
    state: GpuState = GpuState.UP
    #: The job on its last chance that runs there, if any: never two, so that only one is to blame when a worker dies.
    suspect: str = ""

    @property
    def free_bytes(self) -> int:
        """Memory that no replica has reserved."""
        return self.capacity_bytes - self.reserved_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Gpus that running jobs leave for a waiting one: until then nobody else is promised the memory that it needs."""

    gpus: tuple[GpuId, ...]
    #: Cluster time in ms; by then the moves are over, or have come to nothing.
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaShape:
    """How a replica of a model is built, besides its checkpoint; a job keeps the one it was accepted for."""

    engine: str
    num_gpus: int
    #: Weights plus the KV cache of `max_jobs` jobs of `context` tokens, and what the engine needs to work on it.
    bytes_per_gpu: int
    max_jobs: int
    #: Tokens of prompt and output of one job.
    context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A checkpoint loaded on gpus of one node, led by the worker of the first."""

    id: str
    model: str
    checkpoint: str
    gpus: tuple[GpuId, ...]
    state: ReplicaState
    #: Reserved on each of its gpus.
    bytes_per_gpu: int
    #: Jobs it may hold at once.
    max_jobs: int
    engine: str
    #: Tokens of prompt and output of one job.
    context: int
    #: Jobs it holds now, reserved ones included.
    num_jobs: int = 0
    #: Cluster time in ms of the last job's end, or of the load.
    idle_since_ms: int = 0
    #: Cluster time in ms at which it began to take jobs; 0 while it loads.
    ready_ms: int = 0

    @property
    def leader(self) -> GpuId:
        """The gpu whose worker runs it."""
        return self.gpus[0]

    @property
    def takes_jobs(self) -> bool:
        """Whether it serves now or soon."""
        return self.state in {ReplicaState.LOADING, ReplicaState.READY}

    def serves(self, checkpoint: str, shape: ReplicaShape) -> bool:
        """Whether jobs that were accepted for this checkpoint and shape may run on it.

        A model that is deployed again leaves replicas of its former shape behind; a job may run on one where all of
        its tokens fit, however many jobs that replica takes.
        """
        return self.checkpoint == checkpoint and self.engine == shape.engine and self.context >= shape.context

    def is_what(self, model: ModelInfo) -> bool:
        """Whether it is what its model has now, not what was deployed before."""
        shape, now = (self.engine, self.context, self.max_jobs), (model.engine, model.context, model.max_jobs)
        return self.checkpoint == model.checkpoint and shape == now

    @property
    def has_room(self) -> bool:
        """Whether another job may be reserved on it."""
        return self.takes_jobs and self.num_jobs < self.max_jobs


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A deployed model, as scheduling sees it."""

    name: str
    checkpoint: str
    num_gpus: int
    #: Weights plus the KV cache of `max_jobs` jobs of `context` tokens.
    bytes_per_gpu: int
    max_jobs: int
    context: int
    #: How long an idle replica stays; None: as long as its model's past says that it is worth it.
    keep_alive_s: float | None
    min_replicas: int = 0
    max_replicas: int = 8
    engine: str = "steploop"
    #: What a load has to move; 0 while that is not known.
    checkpoint_bytes: int = 0

    def bytes_through(self, tier: Tier) -> int:
        """What a load moves through its slowest tier.

        That is all of the checkpoint, but out of DRAM what one gpu gets of it: each has a way of its own there.
        """
        num_bytes = self.checkpoint_bytes or self.bytes_per_gpu * self.num_gpus
        return -(-num_bytes // self.num_gpus) if tier is Tier.DRAM else num_bytes

    @property
    def shape(self) -> ReplicaShape:
        """How its replicas are built."""
        return ReplicaShape(
            engine=self.engine,
            num_gpus=self.num_gpus,
            bytes_per_gpu=self.bytes_per_gpu,
            max_jobs=self.max_jobs,
            context=self.context,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TierUsage:
    """How full a tier of a node is; checkpoints only."""

    capacity_bytes: int
    used_bytes: int
    #: What was wrong with it when it was last looked at, None while it is sound.
    error: str | None = None

    @property
    def free_bytes(self) -> int:
        """Room for more."""
        return max(0, self.capacity_bytes - self.used_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """A server, as its node agent last reported it."""

    name: str
    #: Checkpoint digests that are complete on its SSD.
    checkpoints: frozenset[str]
    #: Those that are complete in its DRAM, and those of them that are kept there.
    in_dram: frozenset[str] = frozenset()
    kept_in_dram: frozenset[str] = frozenset()
    #: None: it has no such tier, or did not say.
    ssd: TierUsage | None = None
    dram: TierUsage | None = None
    #: Where other nodes fetch its checkpoints, None when it serves none.
    url: str | None = None
    gpus: tuple[GpuId, ...] = ()
