"""What can be done for one waiting job, each option with its price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sllm_tasks.cluster import Gpu, ModelInfo, Replica, ReplicaState, Tier
from sllm_tasks.estimators.estimate import ZERO, Estimate
from sllm_tasks.policy.decision import Assignment, AssignmentPath, Candidate
from sllm_tasks.policy.holds import held_time
from sllm_tasks.policy.moves import find_places_by_moving, gpus_to_empty, with_unknown_jobs
from sllm_tasks.policy.places import Place, find_places
from sllm_tasks.policy.prices import Prices
from sllm_tasks.policy.view import WaitingJob
from sllm_tasks.policy.waiting import memory_time, slot_time, wait_estimate

#: Why a job waits for which running jobs are moved.
MOVING_REASON: Final = "running jobs are moved away to make room for it"

_LOAD_PATHS = {
    Tier.DRAM: AssignmentPath.LOAD_DRAM,
    Tier.SSD: AssignmentPath.LOAD_SSD,
    Tier.REMOTE: AssignmentPath.LOAD_REMOTE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """The options to load a replica, cheapest first; without any, why, and how long until there may be one."""

    candidates: tuple[Candidate, ...] = ()
    reason: str = ""
    fits_nowhere: bool = False
    memory_s: float | None = None
    #: Replicas whose jobs might have been moved, had they been known.
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """Asks the cluster on behalf of one job."""

    prices: Prices
    job: WaitingJob
    #: As it was when the job was accepted.
    model: ModelInfo

    def serving(self) -> list[Replica]:
        """Replicas that the job may run on as soon as they have room."""
        view = self.prices.view
        return [replica for replica in view.serving(self.model) if view.takes(replica.leader, self.job)]

    def warm(self) -> Candidate | None:
        """The ready replica with room that has the fewest jobs."""
        ready = [replica for replica in self.serving() if replica.has_room and replica.state is ReplicaState.READY]
        if not ready:
            return None
        best = min(ready, key=lambda replica: (replica.num_jobs, replica.id))
        return self._candidate(Assignment(path=AssignmentPath.WARM, replica_id=best.id), ZERO)

    def joins(self) -> list[Candidate]:
        """Replicas with room that are being loaded."""
        loading = [replica for replica in self.serving() if replica.has_room and replica.state is ReplicaState.LOADING]
        return [
            self._candidate(
                Assignment(path=self._path_of(replica), replica_id=replica.id),
                self.prices.rest_of_load(replica),
                num_before=replica.num_jobs,
            )
            for replica in sorted(loading, key=lambda replica: replica.id)
        ]

    def slot(self, loads: Loads) -> list[Candidate]:
        """Wait until jobs of full replicas have ended: one for this job, and one for each that comes before it."""
        full = [replica for replica in self.serving() if not replica.has_room]
        if not full:
            return []
        slot_s = slot_time(self.prices, full, self.prices.view.num_waiting.get(self.model.name, 0))
        reason = loads.reason or "its replicas are full, and a place in them is expected sooner than in another one"
        return [self._waiting(reason, slot_s)]

    def held(self) -> list[Candidate]:
        """Wait until the gpus are free from which jobs are moved away for it."""
        hold = self.job.hold
        if hold is None:
            return []
        time_s = held_time(self.prices, self.model, hold, self.prices.view.tiers_of(self.model.checkpoint))
        return [] if time_s is None else [self._waiting(MOVING_REASON, time_s)]

    def memory(self, loads: Loads) -> list[Candidate]:
        """Wait until jobs of other models have ended."""
        if loads.memory_s is None:
            return []
        reason = loads.reason or "what is loaded is in use, and ends sooner than it could be moved"
        return [self._waiting(reason, loads.memory_s)]

    def loads(self) -> Loads:
        """Load another replica, on free memory, or where others are evicted or moved away."""
        view, serving = self.prices.view, self.prices.view.serving(self.model)
        if len(serving) >= self.model.max_replicas:
            return Loads(reason=f"all {len(serving)} replicas are full and max_replicas is {self.model.max_replicas}")
        tiers = view.tiers_of(self.model.checkpoint)
        if not self.prices.settings.load_remote:
            tiers = {node: tier for node, tier in tiers.items() if tier is not Tier.REMOTE}
        gpus = view.usable_gpus(tiers)
        if not gpus:
            return Loads(reason="no live node has the checkpoint")
        gpus = [gpu for gpu in gpus if view.takes(gpu.id, self.job)]
        if not gpus:
            return Loads(reason="every gpu runs a job that may have killed workers, as this one may have")
        # A second copy beside the first would take memory and give no speed: one engine thread steps both.
        occupied = {gpu for replica in serving for gpu in replica.gpus}
        gpus = [gpu for gpu in gpus if gpu.id not in occupied]
        if not gpus:
            return Loads(reason="its replicas are full, and every gpu that could load another has one")
        loads = self._on(gpus, tiers)
        if not loads.candidates and self._fits_nowhere():
            need = f"{self.model.bytes_per_gpu} bytes on each of {self.model.num_gpus} gpus of one node"
            return Loads(reason=f"a replica takes {need}, and no node has that", fits_nowhere=True)
        return loads

    def _on(self, gpus: list[Gpu], tiers: dict[str, Tier]) -> Loads:
        places, memory_s = find_places(self.prices, self.model, gpus, tiers), None
        unknown: tuple[str, ...] = ()
        may_move = self.prices.settings.migrate and self.job.hold is None
        if may_move and (not places or places[0].others_s > 0 or _is_slower(places[0], tiers)):
            busy = gpus_to_empty(self.prices, self.model, gpus, tiers)
            unknown = with_unknown_jobs(self.prices.view, busy)
            places += find_places_by_moving(self.prices, self.model, busy, tiers)
            places.sort(key=lambda place: place.price_s)
        if not places or places[0].moves:
            memory_s = memory_time(self.prices, self.model, gpus, tiers)
        return Loads(
            candidates=tuple(self._loading(place) for place in places),
            reason="" if places else "no gpu has the memory, and what is loaded is in use",
            memory_s=memory_s,
            unknown=unknown,
        )

    def _fits_nowhere(self) -> bool:
        """Whether no node has enough gpus of the size, those that drain included."""
        large: dict[str, int] = {}
        for gpu in self.prices.view.gpus.values():
            if gpu.capacity_bytes >= self.model.bytes_per_gpu:
                large[gpu.id.node] = large.get(gpu.id.node, 0) + 1
        return max(large.values(), default=0) < self.model.num_gpus

    def _loading(self, place: Place) -> Candidate:
        path = AssignmentPath.MIGRATE if place.moves else _LOAD_PATHS[place.tier]
        assignment = Assignment(path=path, gpus=place.gpus, victims=place.victims, moves=place.moves)
        return self._candidate(assignment, place.start, place.others_s)

    def _path_of(self, replica: Replica) -> AssignmentPath:
        """How a replica that is being loaded gets its bytes."""
        loads = self.prices.view.loads.get(replica.leader.node, ())
        tier = next((load.tier for load in loads if load.replica_id == replica.id), Tier.SSD)
        return _LOAD_PATHS[tier]

    def _waiting(self, reason: str, seconds: float) -> Candidate:
        wait = wait_estimate(seconds, self.prices.view.now_ms, self.job)
        return self._candidate(Assignment(path=AssignmentPath.WAIT, reason=reason), wait)

    def _node_of(self, assignment: Assignment) -> str:
        """Where the job would run, empty while it waits."""
        if assignment.replica_id is not None:
            return self.prices.view.replicas[assignment.replica_id].leader.node
        return assignment.gpus[0].node if assignment.gpus else ""

    def _candidate(
        self, assignment: Assignment, ready: Estimate, others_s: float = 0.0, num_before: int = 0
    ) -> Candidate:
        """Make an option; so many prompts are to be read before the job's own, all taken alike."""
        if not self.prices.settings.reads_in_turn:
            num_before = 0
        prompt_tokens, node = self.job.prompt_tokens, self._node_of(assignment)
        first_token = self.prices.estimates.first_token(self.model.name, prompt_tokens, node=node)
        total = ready + first_token.times(1 + num_before)
        return Candidate(
            assignment=assignment,
            total=total,
            start=self.prices.estimates.start(assignment.path, total),
            before_s=first_token.seconds * num_before,
            others_s=others_s,
        )


def _is_slower(place: Place, tiers: dict[str, Tier]) -> bool:
    """Whether another node could load from a faster tier, if it had the room."""
    order = list(Tier)
    return order.index(place.tier) < max(order.index(tier) for tier in tiers.values())
