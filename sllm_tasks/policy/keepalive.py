"""Which idle replicas have been kept long enough."""

from __future__ import annotations

from collections import Counter

from sllm_tasks.cluster import Replica, ReplicaState
from sllm_tasks.policy.prices import Prices
from sllm_tasks.policy.view import ClusterView

#: How long a replica may go on loading for nobody.
_ABANDONED_MS = 10_000
#: An adaptive keep-alive looks so far ahead: Shahrad et al. (ATC '20) keep histograms of four hours, because they hold
#: nearly all gaps of an application.
_HORIZON_S = 4 * 3600.0


def expired_replicas(prices: Prices) -> list[Replica]:
    """Idle replicas past their model's keep-alive, oldest first; a model keeps its `min_replicas`."""
    view = prices.view
    current = [replica for replica in view.replicas.values() if _is_current(view, replica)]
    num_ready = Counter(replica.model for replica in current if replica.state is ReplicaState.READY)
    num_coming = Counter(replica.model for replica in current if replica.state is ReplicaState.LOADING)
    expired = []
    for replica in sorted(view.replicas.values(), key=lambda replica: replica.idle_since_ms):
        if replica.state is ReplicaState.UNLOADING or replica.num_jobs:
            continue
        is_loading = replica.state is ReplicaState.LOADING
        if is_loading and view.now_ms - replica.idle_since_ms < _ABANDONED_MS:
            # All jobs that it was to be loaded for have gone, or none has come yet.
            continue
        if _is_current(view, replica):
            model = view.models[replica.model]
            others = num_coming if is_loading else num_ready
            num_kept = num_ready[model.name] + (num_coming[model.name] if is_loading else 0)
            if num_kept <= model.min_replicas or _is_kept(prices, replica):
                continue
            others[model.name] -= 1
        expired.append(replica)
    return expired


def _is_current(view: ClusterView, replica: Replica) -> bool:
    """Whether it is what its model has now: not when that was deleted or deployed again, or its gpus take no work."""
    model = view.models.get(replica.model)
    return model is not None and view.takes_jobs(replica) and replica.is_what(model)


def _is_kept(prices: Prices, replica: Replica) -> bool:
    """Whether its keep-alive is not over.

    An adaptive one lasts while the next job, waited for as long as is best, comes soon enough for the load that it
    is spared: what the histograms of Shahrad et al. (ATC '20) decide by percentiles, weighed by what a load costs.
    """
    model = prices.view.models[replica.model]
    idle_s = (prices.view.now_ms - replica.idle_since_ms) / 1000
    if model.keep_alive_s is not None:
        return replica.state is not ReplicaState.LOADING and idle_s < model.keep_alive_s
    # One that was loaded beforehand has been idle for less long than its model.
    quiet_s = max(idle_s, prices.estimates.quiet_s(model.name, prices.view.now_ms / 1000) or 0.0)
    spared_s = prices.estimates.hit_rate(model.name, quiet_s, _HORIZON_S) * prices.reload_s(replica)
    return spared_s * prices.settings.waiting_worth >= model.num_gpus
