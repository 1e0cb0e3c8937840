"""What policies share for which a gpu belongs to one replica."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sllm_tasks.cluster import GpuId, ModelInfo, Replica, ReplicaState, Tier
from sllm_tasks.estimators.base import Estimates
from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.policy.decision import Assignment, AssignmentPath, Decision
from sllm_tasks.policy.view import ClusterView, WaitingJob
from sllm_tasks.simulation.system import Order

_PATHS = {
    Tier.REMOTE: AssignmentPath.LOAD_REMOTE,
    Tier.SSD: AssignmentPath.LOAD_SSD,
    Tier.DRAM: AssignmentPath.LOAD_DRAM,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Gpus of one node for a new replica, and the idle replicas that go."""

    gpus: tuple[GpuId, ...]
    victims: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        """Where they are."""
        return self.gpus[0].node


def warm(view: ClusterView, job: WaitingJob) -> Order | None:
    """The replica with room that has the fewest jobs, loaded ones first."""
    replicas = [replica for replica in view.replicas_of(job.model) if replica.has_room]
    best = min(replicas, key=lambda each: (each.state is not ReplicaState.READY, each.num_jobs, each.id), default=None)
    if best is None:
        return None
    return order(Assignment(path=_path_to(view, best), replica_id=best.id))


def _path_to(view: ClusterView, replica: Replica) -> AssignmentPath:
    """The word for a start on a replica that is there: who joins a load waits for it."""
    for load in view.loads.get(replica.leader.node, ()):
        if load.replica_id == replica.id:
            return _PATHS[load.tier]
    return AssignmentPath.WARM


def wait(reason: str) -> Order:
    """Nothing can be done now."""
    return order(Assignment(path=AssignmentPath.WAIT, reason=reason))


def order(assignment: Assignment, preempted: tuple[str, ...] = ()) -> Order:
    """Turn an assignment into an order."""
    return Order(decision=Decision(choice=assignment), preempted=preempted)


def places(view: ClusterView, model: ModelInfo) -> list[Place]:
    """One place on each node that has one, made of free gpus, and of idle replicas' where those are not enough."""
    found = (place_of(*free_and_idle(view, name), model.num_gpus) for name in view.nodes)
    return [place for place in found if place is not None]


def place_of(free: Sequence[GpuId], idle: Iterable[Replica], num_gpus: int) -> Place | None:
    """A place on one node: free gpus, and those of idle replicas where they are too few; None if all are."""
    gpus, victims = list(free), list[str]()
    for replica in sorted(idle, key=lambda each: (each.idle_since_ms, each.id)):
        if len(gpus) >= num_gpus:
            break
        gpus += replica.gpus
        victims.append(replica.id)
    return Place(gpus=tuple(gpus[:num_gpus]), victims=tuple(victims)) if len(gpus) >= num_gpus else None


def free_and_idle(view: ClusterView, node: str) -> tuple[list[GpuId], list[Replica]]:
    """Gpus of a node that hold nothing, and the replicas on its others that nobody uses."""
    free: list[GpuId] = []
    idle: dict[str, Replica] = {}
    for gpu in view.nodes[node].gpus:
        held = view.replicas.on_gpu(gpu)
        if not held:
            free.append(gpu)
        elif all(replica.state is ReplicaState.READY and not replica.num_jobs for replica in held):
            idle |= {replica.id: replica for replica in held}
    return free, list(idle.values())


def load_path(view: ClusterView, place: Place, model: ModelInfo) -> AssignmentPath:
    """The word for a load there."""
    return _PATHS[tier_on(view, place.node, model)]


def tier_on(view: ClusterView, node: str, model: ModelInfo) -> Tier:
    """The slowest tier that a load on a node passes."""
    info = view.nodes[node]
    if model.checkpoint in info.in_dram:
        return Tier.DRAM
    return Tier.SSD if model.checkpoint in info.checkpoints else Tier.REMOTE


def load_time(view: ClusterView, node: str, model: ModelInfo, estimates: Estimates) -> Estimate:
    """The paper's `q + n/b`: what the node's loader has to do first, then the bytes over the slowest tier."""
    tier = tier_on(view, node, model)
    queued_bytes = sum(
        load.remaining_bytes for load in view.loads.get(node, ()) if load.tier is tier and tier is not Tier.DRAM
    )
    return estimates.loading(node, tier, model.bytes_through(tier), queued_bytes=queued_bytes)
