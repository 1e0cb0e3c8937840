"""Replicas that no job asks for: those that are to be there anyway are loaded, those kept long enough closed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import reduce

from sllm_tasks.cluster import GpuId, ModelInfo, Replica, ReplicaState
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.estimators.base import Estimates
from sllm_tasks.ids import new_id
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.router import Applied, NewReplica
from sllm_tasks.policy.effects import begin_load
from sllm_tasks.policy.holds import without_held
from sllm_tasks.policy.keepalive import expired_replicas
from sllm_tasks.policy.preload import Preload, next_preload
from sllm_tasks.policy.prices import Prices
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, WaitingJob
from sllm_tasks.router.snapshot import TIERS

logger = logging.getLogger(__name__)

#: Replicas are looked at this often: their keep-alive is no more exact than that.
_PERIOD_S = 0.5
#: After this time a worker that has not begun a load is told again.
_RESEND_MS = 2_000
#: A load of a model that came to nothing is not repeated on the same worker for so long.
_PAUSE_MS = 30_000
#: Replicas loaded in one pass: waiting jobs come first, and soon there is another.
_MAX_PRELOADS = 8

_START_KINDS = {tier: kind for kind, tier in TIERS.items()}


class ReplicaLife:
    """Called by the router's thread at the end of its passes."""

    def __init__(
        self, live: LiveState, dispatcher: Dispatcher, epoch: Callable[[], int], settings: PolicySettings
    ) -> None:
        self._live = live
        self._dispatcher = dispatcher
        self._epoch = epoch
        self._settings = settings
        self._looked_s = float("-inf")
        # When a model was tried on a worker, and when a worker was last told of a replica.
        self._tried_ms: dict[tuple[str, str], int] = {}
        self._told_ms: dict[str, int] = {}

    def look_after(
        self, view: ClusterView, estimates: Estimates, holders: Sequence[WaitingJob], *, anybody_waits: bool
    ) -> None:
        """Close and load what is due, nothing of it on memory that is held for jobs; raises UnavailableError."""
        if time.monotonic() - self._looked_s < _PERIOD_S:
            return
        self._looked_s = time.monotonic()
        self._tried_ms = {key: at_ms for key, at_ms in self._tried_ms.items() if view.now_ms - at_ms < _PAUSE_MS}
        expired = expired_replicas(Prices(view, estimates, self._settings))
        view = view.without_replicas([replica.id for replica in expired if self._unload(replica)])
        self._tell_again(view)

        def may_try(model: ModelInfo, gpu: GpuId) -> bool:
            return (model.name, view.gpus[gpu].worker_id) not in self._tried_ms

        for _ in range(_MAX_PRELOADS):
            prices = Prices(reduce(without_held, holders, view), estimates, self._settings)
            found = next_preload(prices, anybody_waits=anybody_waits, may_try=may_try)
            if found is None or (view_after := self._load(view, found)) is None:
                return
            view = view_after

    def _unload(self, replica: Replica) -> bool:
        gpu = self._live.fleet.unload_replica(replica.id)
        if gpu is not None:
            logger.info("replica %s of %s: keep-alive is over", replica.id, replica.model)
            self._dispatcher.unload_replica(gpu, replica.id)
        return gpu is not None

    def _load(self, view: ClusterView, preload: Preload) -> ClusterView | None:
        """Order a load; None if the world has changed, or another router leads."""
        model, place, replica_id = preload.model, preload.place, new_id("replica")
        leader = place.gpus[0]
        self._tried_ms[model.name, view.gpus[leader].worker_id] = view.now_ms
        applied = self._live.router.load(
            epoch=self._epoch(),
            replica_id=replica_id,
            start_kind=_START_KINDS[place.tier],
            new=NewReplica(model=model, gpus=place.gpus, victims=place.victims),
        )
        if applied is not Applied.OK:
            return None
        self._told_ms[replica_id] = view.now_ms
        self._dispatcher.load_replica(leader, replica_id)
        logger.info(
            "load %s on %s without a job: %s, evicting %d", model.name, leader, preload.reason, len(place.victims)
        )
        return begin_load(view, model, place.gpus, place.victims, replica_id)

    def _tell_again(self, view: ClusterView) -> None:
        """A message may have been lost; a worker that has begun the load ignores another one."""
        loading = [
            replica
            for replica in view.replicas.values()
            if replica.state is ReplicaState.LOADING and not replica.num_jobs
        ]
        self._told_ms = {each.id: self._told_ms.get(each.id, each.idle_since_ms) for each in loading}
        for replica in loading:
            if view.now_ms - self._told_ms[replica.id] >= _RESEND_MS:
                self._told_ms[replica.id] = view.now_ms
                self._dispatcher.load_replica(replica.leader, replica.id)
