"""What waiting costs: when a slot, or memory, will be free without anybody doing anything about it."""

from __future__ import annotations

from collections.abc import Iterable
from math import log

from sllm_tasks.cluster import Gpu, ModelInfo, Replica, ReplicaState, Tier
from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.policy.places import is_idle, shortage
from sllm_tasks.policy.prices import Prices
from sllm_tasks.policy.view import WaitingJob

#: Gpus that are looked at, those with the fewest jobs first.
_MAX_GPUS = 16
#: How long a wait lasts is hardly known: the middle 80 % of an exponential distribution, in units of its mean.
_LOW, _HIGH = -log(0.9), -log(0.1)


def slot_time(prices: Prices, replicas: Iterable[Replica], num_ahead: int) -> float:
    """Seconds until a job gets a slot of full replicas when so many others get one first.

    A slot that becomes free is taken, and becomes free again when the job that took it has ended.
    """
    ends = sorted(end_s for replica in replicas for end_s in prices.ends_s(replica))
    if not ends:
        return 0.0
    rounds, index = divmod(num_ahead, len(ends))
    return ends[index] + rounds * ends[-1]


def memory_time(prices: Prices, model: ModelInfo, gpus: Iterable[Gpu], tiers: dict[str, Tier]) -> float | None:
    """Seconds until some gpu has the memory for a replica because jobs have ended there, and the load after that.

    None where that is not to be expected: replicas of several gpus need all of them at once.
    """
    if model.num_gpus > 1:
        return None
    view = prices.view
    large = [gpu for gpu in gpus if gpu.capacity_bytes >= model.bytes_per_gpu]
    ranked = sorted(large, key=lambda gpu: (sum(held.num_jobs for held in view.replicas.on_gpu(gpu.id)), gpu.id))
    times = []
    for gpu in ranked[:_MAX_GPUS]:
        time_s = freed_s(prices, gpu, shortage(prices, gpu, model.bytes_per_gpu))
        if time_s is not None:
            times.append(time_s + prices.loading(model, (gpu.id,), tiers[gpu.id.node]).seconds)
    return min(times, default=None)


def wait_estimate(seconds: float, view_now_ms: int, job: WaitingJob) -> Estimate:
    """Put an interval around a predicted wait.

    Who has waited for a while will wait as long again, whatever was predicted: otherwise a prediction that is wrong
    would keep a job waiting for good.
    """
    seconds = max(seconds, (view_now_ms - job.waits_since_ms) / 1000 if job.waits_since_ms else 0.0)
    return Estimate(seconds=seconds, low_s=seconds * _LOW, high_s=seconds * _HIGH)


def freed_s(prices: Prices, gpu: Gpu, missing_bytes: int) -> float | None:
    """When enough replicas of a gpu will have no jobs; None if all of them are not enough."""
    held = [replica for replica in prices.view.replicas.on_gpu(gpu.id) if replica.state is not ReplicaState.UNLOADING]
    ends = sorted(
        (0.0 if is_idle(replica) else max(prices.ends_s(replica), default=0.0), replica.id) for replica in held
    )
    time_s = 0.0
    for end_s, replica_id in ends:
        if missing_bytes <= 0:
            break
        time_s = end_s
        missing_bytes -= prices.view.replicas[replica_id].bytes_per_gpu
    return time_s if missing_bytes <= 0 else None
