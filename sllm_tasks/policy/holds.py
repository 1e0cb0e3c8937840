"""Memory that running jobs leave for a waiting job: what others see of it, and how long it takes."""

from __future__ import annotations

from sllm_tasks.cluster import GpuId, Hold, ModelInfo, Replica, ReplicaState, Tier
from sllm_tasks.policy.places import shortage
from sllm_tasks.policy.prices import Prices
from sllm_tasks.policy.view import ClusterView, WaitingJob
from sllm_tasks.policy.waiting import freed_s


def without_held(view: ClusterView, holder: WaitingJob) -> ClusterView:
    """The cluster as others see it: what leaves the held gpus has its memory still, and is nobody else's victim.

    Of what is free now the holder's replica takes what it needs beyond that.
    """
    if holder.hold is None or holder.model not in view.models:
        return view
    leaving = {gpu: _leaving(view, gpu) for gpu in holder.hold.gpus}
    need_bytes = view.model_of(holder).bytes_per_gpu
    taken = {gpu: max(0, need_bytes - sum(replica.bytes_per_gpu for replica in some)) for gpu, some in leaving.items()}
    return view.hiding(replica.id for some in leaving.values() for replica in some).without_memory(taken)


def _leaving(view: ClusterView, gpu: GpuId) -> list[Replica]:
    return [replica for replica in view.replicas.on_gpu(gpu) if replica.state is ReplicaState.DRAINING]


def held_time(prices: Prices, model: ModelInfo, hold: Hold, tiers: dict[str, Tier]) -> float | None:
    """Seconds until the held gpus have the memory and a replica is loaded there.

    None when there is nothing to wait for: the memory is there, or will not be.
    """
    tier = tiers.get(hold.gpus[0].node)
    gpus = [prices.view.gpus[gpu] for gpu in hold.gpus if gpu in prices.view.gpus]
    times = [freed_s(prices, gpu, shortage(prices, gpu, model.bytes_per_gpu)) for gpu in gpus]
    known = [time_s for time_s in times if time_s is not None]
    if tier is None or len(known) < len(hold.gpus) or max(known) <= 0:
        return None
    return max(known) + prices.loading(model, hold.gpus, tier).seconds
