"""Places that become free when running jobs are moved to other gpus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, Replica, ReplicaState, Tier
from sllm_tasks.estimators.estimate import ZERO, Estimate
from sllm_tasks.estimators.moves import move_time
from sllm_tasks.policy.decision import Move
from sllm_tasks.policy.effects import loading_replica
from sllm_tasks.policy.knapsack import Item, cheapest
from sllm_tasks.policy.places import Place, Room, cheapest_rooms, find_places, is_idle, room_items, shortage
from sllm_tasks.policy.prices import Prices
from sllm_tasks.policy.view import ClusterView

#: Gpus, the most promising first, whose running jobs are looked at: each costs a search of the cluster per replica.
_MAX_GPUS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Relocation:
    """Where all jobs of a replica go."""

    moves: tuple[Move, ...]
    #: Until the last of them has arrived.
    delay: Estimate
    #: Their pauses, and reloads of what is evicted for them.
    others_s: float
    view_after: ClusterView


def gpus_to_empty(prices: Prices, model: ModelInfo, gpus: Iterable[Gpu], tiers: dict[str, Tier]) -> list[Gpu]:
    """Choose gpus on which a replica would be loaded soon, were it not for running jobs.

    For a replica on several gpus those beside them belong to it that have none.
    """
    large = [gpu for gpu in gpus if gpu.capacity_bytes >= model.bytes_per_gpu]
    ranked = sorted(
        (gpu for gpu in large if _has_jobs(prices.view, gpu)),
        key=lambda gpu: (prices.loading(model, (gpu.id,), tiers[gpu.id.node]).seconds, -gpu.free_bytes, gpu.id),
    )[:_MAX_GPUS]
    if model.num_gpus > 1:
        nodes = {gpu.id.node for gpu in ranked}
        ranked += [gpu for gpu in large if gpu.id.node in nodes and not _has_jobs(prices.view, gpu)]
    return ranked


def with_unknown_jobs(view: ClusterView, gpus: Iterable[Gpu]) -> tuple[str, ...]:
    """Name the replicas of some gpus of whose jobs nothing is known."""
    replicas = {replica.id: replica for gpu in gpus for replica in view.replicas.on_gpu(gpu.id)}
    return tuple(id_ for id_, replica in replicas.items() if replica.num_jobs and id_ not in view.running)


def find_places_by_moving(prices: Prices, model: ModelInfo, gpus: Iterable[Gpu], tiers: dict[str, Tier]) -> list[Place]:
    """Find places on gpus whose jobs can go elsewhere, cheapest first."""
    costs: dict[str, float | None] = {}
    rooms: dict[str, list[Room]] = {}
    for gpu in gpus:
        items = [*room_items(prices, gpu), *_busy_items(prices, gpu, costs)]
        freed = cheapest(items, shortage(prices, gpu, model.bytes_per_gpu))
        if freed is not None:
            rooms.setdefault(gpu.id.node, []).append(Room(gpu=gpu, freed=freed.ids, cost_s=freed.cost_s))
    found = [
        _moved(prices, model, tiers[node], cheapest_rooms(prices, model, tiers[node], some))
        for node, some in rooms.items()
        if len(some) >= model.num_gpus
    ]
    return sorted((place for place in found if place is not None), key=lambda place: (place.price_s, place.gpus))


def _has_jobs(view: ClusterView, gpu: Gpu) -> bool:
    return any(replica.num_jobs for replica in view.replicas.on_gpu(gpu.id))


def _busy_items(prices: Prices, gpu: Gpu, costs: dict[str, float | None]) -> list[Item]:
    """Replicas of a gpu whose jobs could go elsewhere, priced as if each went alone."""
    items = []
    for replica in prices.view.replicas.on_gpu(gpu.id):
        if replica.id not in costs:
            relocation = _relocate(prices, replica, frozenset(replica.gpus))
            costs[replica.id] = None if relocation is None else relocation.delay.seconds + relocation.others_s
        cost_s = costs[replica.id]
        if cost_s is not None:
            items.append(Item(id=replica.id, num_bytes=replica.bytes_per_gpu, cost_s=cost_s))
    return items


def _moved(prices: Prices, model: ModelInfo, tier: Tier, rooms: Sequence[Room]) -> Place | None:
    """Plan the moves one after the other, so that no two of them are promised the same memory or slots."""
    gpus = tuple(sorted(room.gpu.id for room in rooms))
    freed = sorted({replica_id for room in rooms for replica_id in room.freed})
    leaving = [prices.view.replicas[replica_id] for replica_id in freed]
    sources = [replica for replica in leaving if not is_idle(replica)]
    if not sources:
        # Nobody has to move: that place was found without us.
        return None
    victims = tuple(replica.id for replica in leaving if is_idle(replica))
    new = loading_replica(model, gpus, "new", now_ms=prices.view.now_ms)
    view = prices.view.without_replicas(freed).with_replica(new)
    others_s = sum(prices.eviction_s(prices.view.replicas[victim]) for victim in victims)
    delay, moves = ZERO, list[Move]()
    for source in sources:
        relocation = _relocate(replace(prices, view=view), source, frozenset(gpus))
        if relocation is None:
            return None
        view = relocation.view_after
        delay = max(delay, relocation.delay, key=lambda estimate: estimate.seconds)
        others_s += relocation.others_s
        moves += relocation.moves
    return Place(
        gpus=gpus,
        tier=tier,
        victims=victims,
        moves=tuple(moves),
        start=delay + prices.loading(model, gpus, tier),
        others_s=others_s + prices.overtaking_s(model, gpus, tier),
    )


def _relocate(prices: Prices, source: Replica, forbidden: frozenset[GpuId]) -> _Relocation | None:
    """Find the cheapest way to get all jobs of a replica off its gpus; None if there is none."""
    jobs = prices.view.running.get(source.id, ())
    model = _model_of(prices.view, source)
    movable = source.state in {ReplicaState.READY, ReplicaState.DRAINING} and source.num_jobs
    if not movable or len(jobs) != source.num_jobs or model is None or not all(job.may_move for job in jobs):
        return None
    joined = _to_replica(prices, source, model, forbidden)
    loaded = _to_gpus(prices, source, model, forbidden)
    found = [relocation for relocation in (joined, loaded) if relocation is not None]
    return min(found, key=lambda relocation: relocation.delay.seconds + relocation.others_s, default=None)


def _to_replica(prices: Prices, source: Replica, model: ModelInfo, forbidden: frozenset[GpuId]) -> _Relocation | None:
    """All jobs go to the ready replica that has most room."""
    targets = [
        target
        for target in prices.view.serving(model)
        if target.leader != source.leader
        and target.state is ReplicaState.READY
        and target.max_jobs - target.num_jobs >= source.num_jobs
        and not forbidden.intersection(target.gpus)
    ]
    if not targets:
        return None
    target = min(targets, key=lambda target: (target.num_jobs - target.max_jobs, target.id))
    moves = _moves(prices, source, target.num_jobs + source.num_jobs, to_replica=target.id)
    return _relocation(moves, 0.0, prices.view.with_jobs_on(target.id, source.num_jobs))


def _to_gpus(prices: Prices, source: Replica, model: ModelInfo, forbidden: frozenset[GpuId]) -> _Relocation | None:
    """All jobs go to a replica that is loaded for them."""
    view, tiers = prices.view, prices.view.tiers_of(model.checkpoint)
    if not prices.settings.load_remote:
        tiers = {node: tier for node, tier in tiers.items() if tier is not Tier.REMOTE}
    occupied = {gpu for replica in view.serving(model) for gpu in replica.gpus} | forbidden
    gpus = [gpu for gpu in view.usable_gpus(tiers) if gpu.id not in occupied]
    places = find_places(prices, model, gpus, tiers)
    if not places:
        return None
    place = places[0]
    new = loading_replica(model, place.gpus, f"{source.id}-moved", now_ms=view.now_ms, num_jobs=source.num_jobs)
    view_after = view.without_replicas(place.victims).with_replica(new)
    return _relocation(_moves(prices, source, source.num_jobs, to=place), place.others_s, view_after)


def _relocation(moves: tuple[Move, ...], others_s: float, view_after: ClusterView) -> _Relocation:
    return _Relocation(
        moves=moves,
        delay=max((move.arrives for move in moves), key=lambda estimate: estimate.seconds),
        others_s=others_s + sum(move.pause_s for move in moves),
        view_after=view_after,
    )


def _moves(
    prices: Prices, source: Replica, batch: int, *, to_replica: str | None = None, to: Place | None = None
) -> tuple[Move, ...]:
    """Move all jobs of a replica to a ready one, or to one that is loaded at a place."""
    moves, token_s = [], prices.token_s(source)
    for job in prices.view.running[source.id]:
        num_tokens = job.prompt_tokens + prices.num_tokens(job, source)
        time = move_time(prices.estimates, source.model, num_tokens=num_tokens, token_s=token_s, num_there=batch)
        move = Move(
            job_id=job.id,
            from_replica=source.id,
            to_replica=to_replica,
            gpus=to.gpus if to else (),
            victims=to.victims if to else (),
            arrives=to.start + time.whole if to else time.whole,
            pause_s=time.pause_s,
        )
        moves.append(move)
    return tuple(moves)


def _model_of(view: ClusterView, source: Replica) -> ModelInfo | None:
    """What a replica was built from; its model may have been deployed again since, or deleted."""
    model = view.models.get(source.model)
    if model is None:
        return None
    return replace(
        model,
        checkpoint=source.checkpoint,
        num_gpus=len(source.gpus),
        bytes_per_gpu=source.bytes_per_gpu,
        max_jobs=source.max_jobs,
        context=source.context,
        engine=source.engine,
    )
