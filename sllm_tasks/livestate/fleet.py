"""Live records of gpus, replicas and nodes, as workers and node agents report them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis

from sllm_tasks.cluster import Gpu, GpuId, GpuState, NodeInfo, Replica, ReplicaState, TierUsage
from sllm_tasks.jobs import EqualityClass, Exactness, StartKind
from sllm_tasks.livestate.codec import equality_class
from sllm_tasks.livestate.connection import NEVER_MS, PREFIX, number, text, translated
from sllm_tasks.livestate.jobs import LEASE_MS, Claim, Verdict
from sllm_tasks.livestate.scripts import Scripts

#: A gpu or node that was silent for this long is dead; heartbeats come every second.
HEARTBEAT_LIFE_MS = 6_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaOrder:
    """A replica as the worker that leads it has to load it."""

    replica: Replica
    #: Where its bytes come from, None for one that nobody decided about; what has come of them so far.
    start_kind: StartKind | None = None
    loaded_bytes: int = 0
    #: Cluster time in ms at which so many were: of its begin at first, None before that.
    noted_ms: int | None = None
    #: What it promises, once it is loaded.
    equality: EqualityClass | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadState:
    """How far a load is."""

    done_bytes: int
    total_bytes: int
    bytes_per_s: int
    #: Expected time to its end, None while nothing is known.
    remaining_ms: int | None


class FleetStore:
    """The room of gpus, replicas and nodes."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    def register_gpu(self, gpu: Gpu, loaded: Sequence[ReplicaOrder] = ()) -> int:
        """Announce a worker's gpu and what it has loaded; returns how many jobs of its predecessor wait again.

        Replicas over several gpus are closed by that: their worker has to free them.
        """
        args: list[Any] = [
            str(gpu.id),
            gpu.worker_id,
            gpu.device,
            gpu.capacity_bytes,
            HEARTBEAT_LIFE_MS,
            gpu.state,
        ]
        for order in loaded:
            replica = order.replica
            args += [
                replica.id, replica.model, replica.checkpoint, replica.bytes_per_gpu, replica.max_jobs,
                replica.engine, replica.context, ",".join(map(str, replica.gpus)), *_equality_args(order.equality),
            ]  # fmt: skip
        with translated():
            return int(self._scripts["register_gpu"](args=args))

    def beat_gpu(
        self, gpu: GpuId, worker_id: str, claims: Sequence[Claim], stats: dict[str, Any]
    ) -> list[Verdict] | None:
        """Renew a gpu's life and its jobs' leases: a verdict per claim, or None when the gpu must register again."""
        args: list[Any] = [str(gpu), worker_id, HEARTBEAT_LIFE_MS, LEASE_MS, json.dumps(stats)]
        for claim in claims:
            args += [claim.spec.job_id, claim.attempt, claim.epoch]
        with translated():
            answer = self._scripts["beat_gpu"](args=args)
        return None if answer[0] == b"unknown" else [Verdict(text(verdict)) for verdict in answer[1:]]

    def reap_gpu(self, gpu: GpuId, worker_id: str = "", expires_ms: int = NEVER_MS) -> int:
        """Free what a silent gpu (or, named, a worker that leaves) held: jobs that wait again, -1 if it lives.

        A silent gpu is left alone when the server comes to it after `expires_ms`: perhaps the server was silent.
        """
        with translated():
            return int(self._scripts["reap_gpu"](args=[str(gpu), worker_id, expires_ms]))

    def silent_gpus(self, now_ms: int) -> list[GpuId]:
        """Gpus whose heartbeat has run out."""
        with translated():
            names = self._redis.zrangebyscore(f"{PREFIX}gpus", "-inf", now_ms)
        return [GpuId.parse(text(name)) for name in names]

    def set_gpu_state(self, gpu: GpuId, state: GpuState) -> bool:
        """Say, as its worker, that a gpu drains because the worker leaves, or takes work; False when nobody knows it.

        Operators drain by `DrainStore`, which does not take back a gpu whose worker leaves.
        """
        with translated():
            return bool(self._scripts["set_gpu_state"](args=[str(gpu), state]))

    def gpus(self) -> list[Gpu]:
        """Every gpu that is alive or was until a moment ago."""
        with translated():
            names = [text(name) for name in self._redis.zrange(f"{PREFIX}gpus", 0, -1)]
        found = [self.gpu(GpuId.parse(name)) for name in names]
        return [gpu for gpu in found if gpu]

    def gpu(self, gpu_id: GpuId) -> Gpu | None:
        """One gpu."""
        with translated():
            worker_id, device, capacity, reserved, state, suspect = self._redis.hmget(
                f"{PREFIX}gpu:{gpu_id}", "worker_id", "device", "capacity_bytes", "reserved_bytes", "state", "suspect"
            )
        if not worker_id:
            return None
        return Gpu(
            id=gpu_id,
            worker_id=text(worker_id),
            device=text(device),
            capacity_bytes=number(capacity) or 0,
            reserved_bytes=number(reserved) or 0,
            state=GpuState(text(state)),
            suspect=text(suspect),
        )

    def gpu_stats(self, gpu_id: GpuId) -> dict[str, Any]:
        """What the worker said about itself in its last heartbeat."""
        with translated():
            stats = self._redis.hget(f"{PREFIX}gpu:{gpu_id}", "stats")
        return json.loads(stats) if stats else {}

    def replicas_on(self, gpu_id: GpuId) -> list[str]:
        """Ids of the replicas that hold memory of a gpu."""
        with translated():
            return sorted(text(replica) for replica in self._redis.smembers(f"{PREFIX}gpu:{gpu_id}:replicas"))

    def closed_replicas(self, gpu_id: GpuId) -> list[Replica]:
        """Replicas that still hold memory of a gpu which is promised to others already; their leaders free it."""
        orders = self.replicas(self.replicas_on(gpu_id))
        return [order.replica for order in orders if order and order.replica.state is ReplicaState.UNLOADING]

    def has_replicas(self, model: str) -> bool:
        """Whether any live gpu holds the model, closed replicas included."""
        orders = [self.replica(replica_id) for gpu in self.gpus() for replica_id in self.replicas_on(gpu.id)]
        return any(order is not None and order.replica.model == model for order in orders)

    def replica(self, replica_id: str) -> ReplicaOrder | None:
        """One replica with what its worker needs to load it."""
        return self.replicas([replica_id])[0]

    def replicas(self, replica_ids: Sequence[str]) -> list[ReplicaOrder | None]:
        """Several of them, in one exchange."""
        if not replica_ids:
            return []
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for replica_id in replica_ids:
                pipeline.hgetall(f"{PREFIX}replica:{replica_id}")
            answers = pipeline.execute()
        return [_order(*each) for each in zip(replica_ids, answers, strict=True)]

    def replica_ready(self, replica_id: str, equality: EqualityClass | None = None) -> bool:
        """Let jobs come, and say what they are promised; False when the replica is no longer wanted."""
        with translated():
            return bool(self._scripts["replica_ready"](args=[replica_id, *_equality_args(equality)]) == b"ok")

    def begin_load(self, replica_id: str) -> None:
        """Note that a worker has begun to load a replica."""
        with translated():
            self._scripts["begin_load"](args=[replica_id])

    def note_load(self, replica_id: str, load: LoadState) -> None:
        """Tell the jobs that wait for a replica how far its load is."""
        with translated():
            self._scripts["note_load"](args=[replica_id, json.dumps(asdict(load)), load.done_bytes])

    def drop_replica(self, replica_id: str) -> None:
        """Forget a replica that its worker has freed or could not load."""
        with translated():
            self._scripts["drop_replica"](args=[replica_id])

    def unload_replica(self, replica_id: str) -> GpuId | None:
        """Close an idle replica; the answer is the gpu whose worker has to free it, None when it is busy or gone."""
        with translated():
            leader = self._scripts["unload_replica"](args=[replica_id])
        return GpuId.parse(text(leader)) if leader else None

    def beat_node(self, node: NodeInfo, now_ms: int) -> None:
        """Announce a node and what it has; the feed hears of it when that has changed."""
        record = {
            "checkpoints": sorted(node.checkpoints),
            "in_dram": sorted(node.in_dram),
            "kept_in_dram": sorted(node.kept_in_dram),
            "url": node.url,
            "tiers": {"ssd": _usage_record(node.ssd), "dram": _usage_record(node.dram)},
        }
        with translated():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.get(f"{PREFIX}node:{node.name}")
            pipeline.set(f"{PREFIX}node:{node.name}", json.dumps(record))
            pipeline.zadd(f"{PREFIX}nodes", {node.name: now_ms + HEARTBEAT_LIFE_MS})
            before, *_ = pipeline.execute()
            # How full a tier is changes all the time, and no decision depends on it.
            if before is None or {**json.loads(before), "tiers": record["tiers"]} != record:
                self._redis.xadd(f"{PREFIX}feed", {"kind": "node", "id": node.name}, maxlen=20_000)

    def known_nodes(self) -> list[str]:
        """Names of all nodes that were ever heard of, silent ones included."""
        with translated():
            return sorted(text(name) for name in self._redis.zrange(f"{PREFIX}nodes", 0, -1))

    def nodes(self, now_ms: int) -> list[NodeInfo]:
        """Nodes whose agent lives, with the gpus whose workers live."""
        gpus = self.gpus()
        with translated():
            names = [text(name) for name in self._redis.zrangebyscore(f"{PREFIX}nodes", now_ms, "+inf")]
            records = self._redis.mget([f"{PREFIX}node:{name}" for name in names]) if names else []
        found = []
        for name, record in zip(names, records, strict=True):
            if record is not None:
                values = json.loads(record)
                found.append(
                    NodeInfo(
                        name=name,
                        checkpoints=frozenset(values["checkpoints"]),
                        in_dram=frozenset(values["in_dram"]),
                        kept_in_dram=frozenset(values["kept_in_dram"]),
                        ssd=_usage(values["tiers"]["ssd"]),
                        dram=_usage(values["tiers"]["dram"]),
                        url=values["url"],
                        gpus=tuple(gpu.id for gpu in gpus if gpu.id.node == name),
                    )
                )
        return found

    def listen_for_cancels(self, gpu: GpuId) -> CancelBell:
        """Subscribe to the bell that rings when a job of this gpu should stop."""
        subscription: Any = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        with translated():
            subscription.subscribe(f"{PREFIX}bell:gpu:{gpu}")
        return CancelBell(subscription)


class CancelBell:
    """Pub/sub as a wake-up: a lost ring costs a heartbeat, never correctness."""

    def __init__(self, subscription: Any) -> None:  # redis-py's PubSub has untyped methods
        self._subscription = subscription

    def wait(self, timeout_s: float) -> str | None:
        """The job that somebody rang for, None after the time-out."""
        with translated():
            message = self._subscription.get_message(timeout=timeout_s)
        return text(message["data"]) if message else None

    def close(self) -> None:
        """Unsubscribe."""
        self._subscription.close()


def _usage_record(usage: TierUsage | None) -> dict[str, Any] | None:
    return None if usage is None else asdict(usage)


def _usage(record: dict[str, Any] | None) -> TierUsage | None:
    return None if record is None else TierUsage(**record)


def _equality_args(equality: EqualityClass | None) -> tuple[str, str, str]:
    """Make script arguments of a promise; none is the lesser one."""
    known = equality or EqualityClass(exactness=Exactness.TOKEN, fingerprint="")
    return known.exactness, known.fingerprint, known.downgrade


def _order(replica_id: str, values: dict[bytes, bytes]) -> ReplicaOrder | None:
    if b"model" not in values or b"state" not in values:
        return None
    replica = Replica(
        id=replica_id,
        model=text(values[b"model"]),
        checkpoint=text(values[b"checkpoint"]),
        gpus=tuple(GpuId.parse(gpu) for gpu in text(values[b"gpus"]).split(",")),
        state=ReplicaState(text(values[b"state"])),
        bytes_per_gpu=number(values[b"bytes_per_gpu"]) or 0,
        max_jobs=number(values[b"max_jobs"]) or 0,
        engine=text(values[b"engine"]),
        context=number(values[b"context"]) or 0,
        num_jobs=number(values[b"num_jobs"]) or 0,
        idle_since_ms=number(values[b"idle_since_ms"]) or 0,
        ready_ms=number(values.get(b"ready_ms")) or 0,
    )
    return ReplicaOrder(
        replica=replica,
        start_kind=StartKind(text(values[b"start_kind"])) if b"start_kind" in values else None,
        loaded_bytes=number(values.get(b"loaded_bytes")) or 0,
        noted_ms=number(values.get(b"noted_ms")),
        equality=equality_class(
            text(values.get(b"exactness")), text(values.get(b"fingerprint")), text(values.get(b"downgrade"))
        ),
    )
