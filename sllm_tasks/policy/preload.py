"""Which replicas to load although no job waits for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, ReplicaState, Tier
from sllm_tasks.policy.places import Place, find_places
from sllm_tasks.policy.prices import SURE, Prices

#: A model is loaded beforehand if its job may come within so many times its load, and this: later is early enough.
_AHEAD_LOADS, _AHEAD_S = 2.0, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preload:
    """A replica to be loaded."""

    model: ModelInfo
    place: Place
    #: For people.
    reason: str


#: Whether a replica of a model may be loaded on a gpu, or was tried there a moment ago.
MayTry = Callable[[ModelInfo, GpuId], bool]


def next_preload(prices: Prices, *, anybody_waits: bool, may_try: MayTry) -> Preload | None:
    """Choose one replica: to complete a model's `min_replicas`, or else one whose job is due.

    None of it evicts what is as likely to be wanted, and while jobs wait for a place nothing is loaded by forecast.
    """
    for model in _incomplete(prices):
        if place := _place(prices, model, SURE, may_try):
            return Preload(model=model, place=place, reason="min_replicas")
    if anybody_waits or not prices.settings.prewarm:
        return None
    for likelihood, model in sorted(_due(prices), key=lambda due: (-due[0], due[1].name)):
        if place := _place(prices, model, likelihood, may_try):
            return Preload(model=model, place=place, reason="its next job is due")
    return None


def _incomplete(prices: Prices) -> Iterator[ModelInfo]:
    for model in prices.view.models.values():
        replicas = prices.view.replicas_of(model.name)
        # What was deployed before it counts as a replica, not as one of those that are to be there.
        num_current = sum(replica.is_what(model) for replica in replicas)
        if num_current < model.min_replicas and len(replicas) < model.max_replicas:
            yield model


def _due(prices: Prices) -> Iterator[tuple[float, ModelInfo]]:
    """Models without a replica whose next job may come when they would be loaded, and how likely it comes soon."""
    view, estimates, settings = prices.view, prices.estimates, prices.settings
    for model in view.models.values():
        if model.keep_alive_s is not None or view.replicas_of(model.name):
            continue
        quiet_s = estimates.quiet_s(model.name, view.now_ms / 1000)
        tiers = view.tiers_of(model.checkpoint)
        if quiet_s is None or not tiers:
            continue
        load_s = min(estimates.loading(node, tier, model.bytes_through(tier)).seconds for node, tier in tiers.items())
        within_s = _AHEAD_LOADS * load_s + _AHEAD_S
        spared_s = estimates.hit_rate(model.name, quiet_s, within_s) * load_s
        if spared_s * settings.waiting_worth >= model.num_gpus:
            yield estimates.wanted(model.name, settings.wanted_within_s, quiet_s), model


def _place(prices: Prices, model: ModelInfo, likelihood: float, may_try: MayTry) -> Place | None:
    """Find the cheapest place whose victims are all less likely to be wanted."""
    view = prices.view
    tiers = view.tiers_of(model.checkpoint)
    if not prices.settings.load_remote:
        tiers = {node: tier for node, tier in tiers.items() if tier is not Tier.REMOTE}
    occupied = {gpu for replica in view.replicas_of(model.name) for gpu in replica.gpus}
    usable = [
        gpu for gpu in view.usable_gpus(tiers) if gpu.id not in occupied and _is_free_for(prices, gpu, likelihood)
    ]
    # Before one place of each node is chosen: another of its gpus may do.
    gpus = [gpu for gpu in usable if may_try(model, gpu.id)]
    for place in find_places(prices, model, gpus, tiers):
        victims = [view.replicas[victim] for victim in place.victims]
        if all(prices.wanted(victim) < likelihood for victim in victims):
            return place
    return None


def _is_free_for(prices: Prices, gpu: Gpu, likelihood: float) -> bool:
    """Whether no waiting job is promised the gpu's memory, and a mere forecast gets in the way of no other load."""
    if any(replica.state is ReplicaState.DRAINING for replica in prices.view.replicas.on_gpu(gpu.id)):
        return False
    return likelihood >= SURE or not prices.view.loads.get(gpu.id.node)
