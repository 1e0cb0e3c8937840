"""Which idle replicas have been kept long enough."""

from __future__ import annotations

from collections import Counter

from sllm_tasks.cluster import Replica, ReplicaState
from sllm_tasks.policy.view import ClusterView

#: How long a replica may go on loading for nobody.
_ABANDONED_MS = 10_000


def expired_replicas(view: ClusterView) -> list[Replica]:
    """Idle replicas past their model's keep-alive, oldest first; a model keeps its `min_replicas`."""
    kept = Counter(replica.model for replica in view.replicas.values() if _serves(view, replica))
    expired = []
    for replica in sorted(view.replicas.values(), key=lambda replica: replica.idle_since_ms):
        if replica.state is ReplicaState.UNLOADING or replica.num_jobs:
            continue
        if replica.state is ReplicaState.LOADING:
            # All jobs that it was to be loaded for have gone; perhaps its worker never heard of it.
            if view.now_ms - replica.idle_since_ms >= _ABANDONED_MS:
                expired.append(replica)
            continue
        if not _serves(view, replica):
            expired.append(replica)
            continue
        model = view.models[replica.model]
        idle_ms = view.now_ms - replica.idle_since_ms
        if idle_ms >= model.keep_alive_s * 1000 and kept[model.name] > model.min_replicas:
            kept[model.name] -= 1
            expired.append(replica)
    return expired


def _serves(view: ClusterView, replica: Replica) -> bool:
    """Whether it is what its model has now: not when that was deleted, or deployed again as something else."""
    model = view.models.get(replica.model)
    if model is None or replica.state is not ReplicaState.READY:
        return False
    built = (replica.checkpoint, replica.engine, replica.context, replica.max_jobs)
    return built == (model.checkpoint, model.engine, model.context, model.max_jobs)
