"""What tests of the live state need to happen around the thing they are about."""

from __future__ import annotations

from redis import Redis

from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, Replica, ReplicaShape, ReplicaState
from sllm_tasks.jobs import FinishReason, JobSpec, JobStatus, Outcome, SamplingParams, StartKind, TokenRecord
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.fleet import ReplicaOrder
from sllm_tasks.livestate.jobs import Append, Claim, Gap
from sllm_tasks.livestate.queues import Gates
from sllm_tasks.livestate.router import Applied, NewReplica

GPU = GpuId("node0", 0)
OTHER_GPU = GpuId("node1", 0)
WORKER = "worker_a"
#: Never over: tests that are about expiry say so.
FAR_MS = 1 << 50

SHAPE = ReplicaShape(engine="instant", num_gpus=1, bytes_per_gpu=10, max_jobs=8, context=64)

SUCCEEDED = Outcome(status=JobStatus.SUCCEEDED, finish_reason=FinishReason.STOP)


def job_spec(job_id: str = "job_1", **changes: object) -> JobSpec:
    """A job for model `m`."""
    values: dict[str, object] = {
        "job_id": job_id,
        "tenant": "t",
        "model": "m",
        "checkpoint": "c",
        "shape": SHAPE,
        "prompt_ids": (1, 2, 3),
        "params": SamplingParams(max_tokens=8, seed=7),
        "created_ms": 1_000,
    }
    return JobSpec(**{**values, **changes})  # type: ignore[arg-type]


def replica_order(
    replica_id: str = "replica_1",
    *,
    model: str = "m",
    gpu: GpuId = GPU,
    slots: int = 8,
    num_bytes: int = 10,
    context: int = SHAPE.context,
    checkpoint: str = "c",
    state: ReplicaState = ReplicaState.READY,
) -> ReplicaOrder:
    """A replica on one gpu."""
    replica = Replica(
        id=replica_id,
        model=model,
        checkpoint=checkpoint,
        gpus=(gpu,),
        state=state,
        bytes_per_gpu=num_bytes,
        max_jobs=slots,
        engine=SHAPE.engine,
        context=context,
    )
    return ReplicaOrder(replica=replica)


def model_info(name: str = "m", *, num_bytes: int = 10, slots: int = 8) -> ModelInfo:
    """A model whose replicas take one gpu."""
    return ModelInfo(
        name=name, checkpoint="c", num_gpus=1, bytes_per_gpu=num_bytes, max_jobs=slots, context=64, keep_alive_s=60,
        engine=SHAPE.engine,
    )  # fmt: skip


def token(index: int) -> TokenRecord:
    """The token at an index; its id and text tell which."""
    return TokenRecord(index=index, token_id=100 + index, text=f" {index}")


class World:
    """A live state, and the server behind it for what only time or a fault would bring about."""

    def __init__(self, live: LiveState, redis: Redis) -> None:
        self.live = live
        self.redis = redis

    def add_gpu(self, gpu: GpuId = GPU, worker: str = WORKER, *orders: ReplicaOrder, capacity_bytes: int = 100) -> int:
        """Register a worker's gpu with what it has loaded."""
        record = Gpu(id=gpu, worker_id=worker, device="cpu", capacity_bytes=capacity_bytes)
        return self.live.fleet.register_gpu(record, orders)

    def open_gates(self) -> None:
        """Let jobs take the fast path, as a router does that has found no paused queue."""
        self.live.queues.set_gates(Gates(), self.live.queues.look().version)

    def silence(self, gpu: GpuId) -> None:
        """Let a gpu's heartbeat run out."""
        self.redis.zadd("sllm:gpus", {str(gpu): 1})

    def make_due(self, job_id: str) -> None:
        """Let the time pass by which a job had to be claimed, or its owner had to be heard."""
        self.redis.zadd("sllm:leases", {job_id: 1})

    def claim(self, job_id: str = "job_1", *, attempt: int = 1, gpu: GpuId = GPU, worker: str = WORKER) -> Claim:
        """Claim a job, which must work."""
        claim = self.live.jobs.claim(job_id, attempt, gpu, worker, FAR_MS)
        assert isinstance(claim, Claim), claim
        return claim

    def running_job(self, job_id: str = "job_1") -> Claim:
        """A job that is claimed on a fresh gpu with a ready replica."""
        self.open_gates()
        self.add_gpu(GPU, WORKER, replica_order())
        self.live.jobs.create(job_spec(job_id))
        return self.claim(job_id)

    def handed_back(self, claim: Claim) -> Claim:
        """The claim of the attempt that goes on after this one was handed back."""
        job_id, attempt = claim.spec.job_id, claim.attempt + 1
        self.live.jobs.release(claim, "hand_over")
        self.apply(job_id, "replica_1", attempt=attempt)
        return self.claim(job_id, attempt=attempt)

    def append(self, claim: Claim, *indexes: int) -> str:
        """Write tokens for a claim, and say what became of it."""
        tokens = tuple(token(index) for index in indexes)
        step = Append(job_id=claim.spec.job_id, attempt=claim.attempt, epoch=claim.epoch, tokens=tokens)
        answer = self.live.jobs.append([step])[0]
        return f"gap behind {answer.num_tokens}" if isinstance(answer, Gap) else answer.value

    def lead(self, who: str = "router_a") -> int:
        """Become the router's leader, which must work."""
        epoch = self.live.router.lead(who)
        assert epoch is not None
        return epoch

    def apply(
        self,
        job_id: str,
        replica_id: str,
        new: NewReplica | None = None,
        *,
        epoch: int | None = None,
        attempt: int = 1,
        suspect: bool = False,
    ) -> Applied:
        """Carry out a decision of the leading router."""
        return self.live.router.apply(
            epoch=self.lead() if epoch is None else epoch,
            job_id=job_id,
            attempt=attempt,
            replica_id=replica_id,
            start_kind=StartKind.COLD_SSD if new else StartKind.WARM,
            decision_id="decision_1",
            new=new,
            suspect=suspect,
        )

    def reserved_bytes(self, gpu: GpuId = GPU) -> int:
        """What a gpu's record says is taken."""
        record = self.live.fleet.gpu(gpu)
        assert record is not None
        return record.reserved_bytes

    def num_jobs(self, replica_id: str = "replica_1") -> int:
        """What a replica's record says it holds."""
        order = self.live.fleet.replica(replica_id)
        assert order is not None
        return order.replica.num_jobs

    def events(self, job_id: str = "job_1") -> list[str]:
        """A job's events in short: kind, and for tokens their text."""
        return [event.kind + event.data.get("text", "") for event in self.live.jobs.events(job_id)]

    def reports(self) -> list[str]:
        """Kinds of the reports that wait for control, oldest first."""
        return [report.kind for report in self.live.reports.read(1_000, 1)]
