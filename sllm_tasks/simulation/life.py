"""How long simulated replicas stay, and which come before their jobs: by fixed habits, or by the router's code."""

from __future__ import annotations

from collections.abc import Callable

from sllm_tasks.cluster import GpuId, ReplicaState
from sllm_tasks.estimators.base import Estimates
from sllm_tasks.policy.effects import begin_load
from sllm_tasks.policy.keepalive import expired_replicas
from sllm_tasks.policy.preload import next_preload
from sllm_tasks.policy.prices import Prices
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.simulation.clock import Clock
from sllm_tasks.simulation.fleet import Fleet, SimReplica
from sllm_tasks.simulation.system import System

#: How often a router looks after its replicas.
_PERIOD_S = 1.0


class Life:
    """Belongs to a simulation, which loads and removes."""

    def __init__(
        self,
        clock: Clock,
        fleet: Fleet,
        estimates: Estimates,
        system: System,
        *,
        load: Callable[[str, tuple[GpuId, ...], tuple[str, ...]], SimReplica],
        remove: Callable[[SimReplica], None],
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self._estimates = estimates
        self._system = system
        self._load = load
        self._remove = remove
        self._settings = PolicySettings(prewarm=system.prewarms, waiting_worth=system.waiting_worth)

    def begin(self, until_s: float, anybody_waits: Callable[[], bool]) -> None:
        """Look after the replicas until then, if the system's keep-alive is adaptive."""
        if self._system.keep_alive_s is not None:
            return

        def look() -> None:
            self._look(anybody_waits=anybody_waits())

        def tick() -> None:
            # Jobs that have come this moment get their places first.
            self._clock.after(0.0, look)
            if self._clock.now_s < until_s:
                self._clock.after(_PERIOD_S, tick)

        self._clock.after(_PERIOD_S, tick)

    def idle(self, replica: SimReplica) -> None:
        """A replica has nothing to do; with a fixed keep-alive it goes when that is over."""
        keep_s, idle_since_s = 0.0, replica.idle_since_s
        if replica.state is not ReplicaState.DRAINING:
            if self._system.keep_alive_s is None:
                return
            keep_s = max(self._system.keep_alive_s, self._system.keep_alive_loads * replica.load_s)

        def end_if_idle() -> None:
            is_same = self._fleet.replicas.get(replica.id) is replica and replica.idle_since_s == idle_since_s
            if is_same and not replica.num_jobs:
                self._remove(replica)

        self._clock.after(keep_s, end_if_idle)

    def _look(self, *, anybody_waits: bool) -> None:
        view = self._fleet.view(self._clock.now_s)
        expired = expired_replicas(Prices(view, self._estimates, self._settings))
        for replica in expired:
            self._remove(self._fleet.replicas[replica.id])
        view = view.without_replicas(replica.id for replica in expired)
        while True:
            prices = Prices(view, self._estimates, self._settings)
            found = next_preload(prices, anybody_waits=anybody_waits, may_try=lambda _model, _gpu: True)
            if found is None:
                return
            place = found.place
            loading = self._load(found.model.name, place.gpus, place.victims)
            view = begin_load(view, found.model, place.gpus, place.victims, loading.id)
