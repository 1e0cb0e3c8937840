"""Where a running job can move to: a replica like its own, or room for one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sllm_tasks.cluster import Gpu, GpuId, GpuState, NodeInfo, Replica, ReplicaState


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What there is in the cluster."""

    gpus: Sequence[Gpu]
    replicas: Sequence[Replica]
    nodes: Sequence[NodeInfo]

    def up(self, gpus: Iterable[GpuId]) -> bool:
        """Whether all of some gpus take work."""
        taking = {gpu.id for gpu in self.gpus if gpu.state is GpuState.UP}
        return taking.issuperset(gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A replica that there is, or gpus for a new one, whose `victims` go first."""

    gpus: tuple[GpuId, ...]
    replica_id: str | None = None
    victims: tuple[str, ...] = ()


def find_target(source: Replica, around: Surroundings, to: GpuId | None = None) -> Place | None:
    """Choose where a job of `source` goes, led by gpu `to` if that is given; None when there is no such place."""
    return _like_it(source, around, to) or _room_for_one(source, around, to)


def _like_it(source: Replica, around: Surroundings, to: GpuId | None) -> Place | None:
    """A replica of the same checkpoint with room, those that are ready and have few jobs first."""
    found = [
        replica
        for replica in around.replicas
        if replica.leader != source.leader
        and (replica.checkpoint, replica.engine) == (source.checkpoint, source.engine)
        and replica.context >= source.context
        and replica.has_room
        and to in {None, replica.leader}
        and around.up(replica.gpus)
    ]
    found.sort(key=lambda replica: (replica.state is not ReplicaState.READY, replica.num_jobs, replica.id))
    return Place(gpus=found[0].gpus, replica_id=found[0].id) if found else None


def _room_for_one(source: Replica, around: Surroundings, to: GpuId | None) -> Place | None:
    """Gpus of a node that has the checkpoint: in its DRAM if possible, evicting as little as possible."""
    places = []
    for node in around.nodes:
        if source.checkpoint not in node.checkpoints or (to is not None and to.node != node.name):
            continue
        rooms = [(gpu, _victims(source, around, gpu)) for gpu in around.gpus if gpu.id.node == node.name]
        usable = [
            (gpu.id != to, len(victims), -gpu.free_bytes, gpu.id, victims)
            for gpu, victims in rooms
            if victims is not None and gpu.state is GpuState.UP and gpu.id not in source.gpus
        ]
        chosen = sorted(usable)[: len(source.gpus)]
        if len(chosen) == len(source.gpus) and (to is None or chosen[0][3] == to):
            victims = tuple(sorted({victim for *_, some in chosen for victim in some}))
            in_dram = source.checkpoint in node.in_dram
            gpus = tuple(gpu for _, _, _, gpu, _ in chosen)
            places.append((not in_dram, len(victims), chosen[0][2], Place(gpus=gpus, victims=victims)))
    return min(places, key=lambda place: place[:3])[3] if places else None


def _victims(source: Replica, around: Surroundings, gpu: Gpu) -> tuple[str, ...] | None:
    """Idle replicas that have to go before one like `source` fits on a gpu; None when it does not fit at all."""
    missing_bytes, victims = source.bytes_per_gpu - gpu.free_bytes, []
    idle = [
        replica
        for replica in around.replicas
        if gpu.id in replica.gpus and replica.state is ReplicaState.READY and replica.num_jobs == 0
    ]
    for replica in sorted(idle, key=lambda replica: (replica.idle_since_ms, replica.id)):
        if missing_bytes <= 0:
            break
        victims.append(replica.id)
        missing_bytes -= replica.bytes_per_gpu
    return tuple(victims) if missing_bytes <= 0 else None
