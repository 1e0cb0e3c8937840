"""Where a new replica could be loaded: on every node the cheapest gpus of it, with what has to go for that."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, Replica, ReplicaState, Tier
from sllm_tasks.estimators.estimate import ZERO, Estimate
from sllm_tasks.policy.decision import Move
from sllm_tasks.policy.knapsack import Item, cheapest
from sllm_tasks.policy.prices import Prices

_LOADED = frozenset({ReplicaState.READY, ReplicaState.DRAINING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Gpus of one node, leader first, that can have a replica."""

    gpus: tuple[GpuId, ...]
    tier: Tier
    victims: tuple[str, ...] = ()
    moves: tuple[Move, ...] = ()
    #: Until the replica is loaded there.
    start: Estimate = ZERO
    others_s: float = 0.0

    @property
    def price_s(self) -> float:
        """What the options of one decision are compared by."""
        return self.start.seconds + self.others_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One gpu with enough memory once some of its replicas are gone."""

    gpu: Gpu
    freed: tuple[str, ...] = ()
    cost_s: float = 0.0

    @property
    def rank(self) -> tuple[float, int, GpuId]:
        """Cheap ones first; of equal ones the emptiest, so that most room is left for the others."""
        return (self.cost_s, -self.gpu.free_bytes, self.gpu.id)


def shortage(prices: Prices, gpu: Gpu, num_bytes: int) -> int:
    """Bytes that have to become free on a gpu before it can give so many."""
    if not prices.settings.share_gpus:
        return gpu.reserved_bytes
    return max(0, num_bytes - gpu.free_bytes)


def is_idle(replica: Replica) -> bool:
    """Whether it can be evicted without anybody noticing."""
    return replica.num_jobs == 0 and replica.state in _LOADED


def find_places(prices: Prices, model: ModelInfo, gpus: Iterable[Gpu], tiers: dict[str, Tier]) -> list[Place]:
    """Find the best place of each node that needs nobody to be moved, cheapest first.

    Nodes that cannot be the cheapest any more are not searched for victims, nor more gpus than the settings say.
    """
    fitting = _by_node(gpu for gpu in gpus if gpu.capacity_bytes >= model.bytes_per_gpu)
    found: list[Place] = []
    short: list[tuple[float, str, list[Room]]] = []
    for node, members in fitting.items():
        free = [Room(gpu=gpu) for gpu in members if shortage(prices, gpu, model.bytes_per_gpu) == 0]
        if len(free) >= model.num_gpus:
            found.append(_place(prices, model, tiers[node], free))
        elif len(members) >= model.num_gpus:
            price = prices.estimates.loading(node, tiers[node], model.bytes_through(tiers[node])).seconds
            short.append((price, node, free))
    best_s = min((place.price_s for place in found), default=float("inf"))
    num_left = prices.settings.max_gpus_searched
    for price, node, free in sorted(short, key=lambda entry: entry[:2]):
        if price >= best_s or num_left <= 0:
            break
        num_left -= len(fitting[node]) - len(free)
        free_ids = {room.gpu.id for room in free}
        rooms = [_emptied(prices, gpu, model) for gpu in fitting[node] if gpu.id not in free_ids]
        enough = free + [room for room in rooms if room is not None]
        if len(enough) >= model.num_gpus:
            found.append(_place(prices, model, tiers[node], enough))
            best_s = min(best_s, found[-1].price_s)
    return sorted(found, key=lambda place: (place.price_s, [-_free(prices, gpu) for gpu in place.gpus], place.gpus))


def room_items(prices: Prices, gpu: Gpu) -> list[Item]:
    """Idle replicas of a gpu, priced."""
    return [
        Item(id=replica.id, num_bytes=replica.bytes_per_gpu, cost_s=prices.eviction_s(replica))
        for replica in prices.view.replicas.on_gpu(gpu.id)
        if is_idle(replica)
    ]


def cheapest_rooms(prices: Prices, model: ModelInfo, tier: Tier, rooms: Collection[Room]) -> list[Room]:
    """Pick as many gpus of one node as the model takes, those whose workers are not busy loading before the others."""
    if not prices.view.loads.get(next(iter(rooms)).gpu.id.node):
        return sorted(rooms, key=lambda room: room.rank)[: model.num_gpus]
    priced = {room.gpu.id: prices.loading(model, (room.gpu.id,), tier).seconds for room in rooms}
    ranked = sorted(rooms, key=lambda room: (priced[room.gpu.id] + room.cost_s, *room.rank))
    return ranked[: model.num_gpus]


def _place(prices: Prices, model: ModelInfo, tier: Tier, rooms: Collection[Room]) -> Place:
    chosen = cheapest_rooms(prices, model, tier, rooms)
    gpus = tuple(sorted(room.gpu.id for room in chosen))
    # A replica on several of the gpus goes once.
    victims = tuple(sorted({victim for room in chosen for victim in room.freed}))
    evictions_s = sum(prices.eviction_s(prices.view.replicas[victim]) for victim in victims)
    return Place(
        gpus=gpus,
        tier=tier,
        victims=victims,
        start=prices.loading(model, gpus, tier),
        others_s=evictions_s + prices.overtaking_s(model, gpus, tier),
    )


def _emptied(prices: Prices, gpu: Gpu, model: ModelInfo) -> Room | None:
    freed = cheapest(room_items(prices, gpu), shortage(prices, gpu, model.bytes_per_gpu))
    return None if freed is None else Room(gpu=gpu, freed=freed.ids, cost_s=freed.cost_s)


def _free(prices: Prices, gpu: GpuId) -> int:
    return prices.view.gpus[gpu].free_bytes


def _by_node(gpus: Iterable[Gpu]) -> dict[str, list[Gpu]]:
    found: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        found.setdefault(gpu.id.node, []).append(gpu)
    return found
