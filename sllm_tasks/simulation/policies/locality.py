"""The paper's policy and its nearest rival: the node with the smallest estimated start, also if somebody runs there.

ServerlessLLM moves whoever runs there to a free gpu first, by live migration. Shepherd* kills them; they start anew on
the free gpu. Without a free gpu elsewhere both wait: a job that is put out has to go somewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from sllm_tasks.cluster import Replica, ReplicaState
from sllm_tasks.estimators.base import Estimates
from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.policy.decision import Assignment, AssignmentPath, Candidate, Decision, Move
from sllm_tasks.policy.view import ClusterView, RunningJob, WaitingJob
from sllm_tasks.simulation.links import Discipline
from sllm_tasks.simulation.policies import whole_gpus
from sllm_tasks.simulation.policies.random_gpu import SERVERLESSLLM_START_S
from sllm_tasks.simulation.policies.whole_gpus import Place
from sllm_tasks.simulation.system import Loader, Order, System


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    start: Estimate
    assignment: Assignment
    preempted: tuple[str, ...] = ()

    def as_order(self) -> Order:
        candidate = Candidate(assignment=self.assignment, total=self.start, start=self.start)
        return Order(decision=Decision(choice=self.assignment, candidates=(candidate,)), preempted=self.preempted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaving:
    """A replica whose jobs go to a free place."""

    victim: Replica
    jobs: tuple[RunningJob, ...]
    target: Place
    takes: Estimate

    def moves(self) -> Iterable[Move]:
        for job in self.jobs:
            yield Move(job_id=job.id, from_replica=self.victim.id, gpus=self.target.gpus, victims=self.target.victims)


class Locality:
    """The smallest estimated start wins."""

    def __init__(self, *, kills: bool) -> None:
        self._kills = kills

    def decide(self, view: ClusterView, job: WaitingJob, estimates: Estimates) -> Order:
        """A warm replica, else the best node, with or without putting somebody out there."""
        if (warm := whole_gpus.warm(view, job)) is not None:
            return warm
        model = view.model_of(job)
        prefill = estimates.first_token(job.model, job.prompt_tokens)
        options: list[_Option] = []
        free = whole_gpus.places(view, model)
        for place in free:
            assignment = Assignment(
                path=whole_gpus.load_path(view, place, model), gpus=place.gpus, victims=place.victims
            )
            start = whole_gpus.load_time(view, place.node, model, estimates) + prefill
            options.append(_Option(start=start, assignment=assignment))
        if not free:
            return whole_gpus.wait("no gpu is free, so nobody can be put out either")
        with_room = {place.node for place in free}
        for node in view.nodes:
            if node not in with_room:
                options += self._putting_out(view, node, job, estimates)
        return min(options, key=lambda option: option.start.seconds).as_order()

    def drained(self, view: ClusterView, job: WaitingJob) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing makes room."""
        return ()

    def opened(self, view: ClusterView, jobs: Sequence[WaitingJob]) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing was closed."""
        return ()

    def _putting_out(self, view: ClusterView, node: str, job: WaitingJob, estimates: Estimates) -> Iterable[_Option]:
        """Free gpus of a node of the running jobs that leave soonest; at most one option, as gpus are alike."""
        model = view.model_of(job)
        free, idle = whole_gpus.free_and_idle(view, node)
        num_there = len(free) + sum(len(replica.gpus) for replica in idle)
        leaving = _enough(self._cheapest(view, node, estimates), model.num_gpus - num_there)
        free += (gpu for each in leaving for gpu in each.victim.gpus)
        place = whole_gpus.place_of(free, idle, model.num_gpus)
        if place is None:
            return
        start = whole_gpus.load_time(view, node, model, estimates)
        start += estimates.first_token(job.model, job.prompt_tokens)
        if self._kills:
            assignment = Assignment(
                path=whole_gpus.load_path(view, place, model), gpus=place.gpus, victims=place.victims
            )
            yield _Option(start=start, assignment=assignment, preempted=tuple(each.victim.id for each in leaving))
            return
        # They leave one after another in the paper's dynamic program: their times add.
        for each in leaving:
            start += each.takes
        moves = tuple(move for each in leaving for move in each.moves())
        assignment = Assignment(path=AssignmentPath.MIGRATE, gpus=place.gpus, victims=place.victims, moves=moves)
        yield _Option(start=start, assignment=assignment)

    def _cheapest(self, view: ClusterView, node: str, estimates: Estimates) -> Iterable[_Leaving]:
        """Victims on a node, the one that is gone first before the others; no two are sent to the same node."""
        # Nobody stays on this one: its free gpus are wanted as well.
        taken = {node}
        busy = {replica.id: replica for gpu in view.nodes[node].gpus for replica in view.replicas.on_gpu(gpu)}
        victims = [replica for replica in busy.values() if _can_leave(view, replica)]
        while victims:
            options = [
                leaving
                for victim in victims
                for leaving in self._ways_out(view, victim, estimates)
                if leaving.target.node not in taken
            ]
            if not options:
                return
            best = min(options, key=lambda leaving: (leaving.takes.seconds, leaving.victim.id))
            victims.remove(best.victim)
            taken.add(best.target.node)
            yield best

    def _ways_out(self, view: ClusterView, victim: Replica, estimates: Estimates) -> Iterable[_Leaving]:
        """Free places for a victim, with the time until all of its jobs run there."""
        model, jobs = view.models[victim.model], view.running[victim.id]
        tokens = [job.prompt_tokens + _tokens_out(view, job, estimates) for job in jobs]
        for target in whole_gpus.places(view, model):
            takes = whole_gpus.load_time(view, target.node, model, estimates)
            for num_tokens in tokens:
                takes += estimates.migration(model.name, len(jobs), num_tokens)
            yield _Leaving(victim=victim, jobs=jobs, target=target, takes=takes)


def _enough(ways: Iterable[_Leaving], num_gpus: int) -> list[_Leaving]:
    """The first of those that leave whose gpus are enough, without those that a later one makes superfluous."""
    chosen: list[_Leaving] = []
    missing = num_gpus
    for each in ways:
        if missing <= 0:
            break
        chosen.append(each)
        missing -= len(each.victim.gpus)
    for each in chosen[::-1]:
        if missing + len(each.victim.gpus) <= 0:
            chosen.remove(each)
            missing += len(each.victim.gpus)
    return chosen


def _can_leave(view: ClusterView, replica: Replica) -> bool:
    """Whether every one of its jobs has begun, and none is on its way to it."""
    running = view.running.get(replica.id, ())
    is_known = replica.state is ReplicaState.READY and 0 < replica.num_jobs == len(running)
    return is_known and all(job.started_ms is not None for job in running)


def _tokens_out(view: ClusterView, job: RunningJob, estimates: Estimates) -> int:
    """The paper's d/t: how long it has run over the time of a token."""
    if job.started_ms is None:
        return 0
    elapsed_s = (view.now_ms - job.started_ms) / 1_000
    return max(0, round(elapsed_s / max(estimates.token_time(job.model, 1).seconds, 1e-6)))


def _moving(seed: int) -> Locality:  # noqa: ARG001 - one signature for all systems
    return Locality(kills=False)


def _killing(seed: int) -> Locality:  # noqa: ARG001 - one signature for all systems
    return Locality(kills=True)


_LOADER: Final = Loader(discipline=Discipline.FCFS, start_s=SERVERLESSLLM_START_S)

SERVERLESSLLM: Final = System(
    name="serverlessllm",
    title="ServerlessLLM (the paper's policy)",
    make_policy=_moving,
    loader=_LOADER,
    keep_alive_loads=1.0,
)
SHEPHERD: Final = System(
    name="shepherd",
    title="Shepherd* (kills instead of moving)",
    make_policy=_killing,
    loader=_LOADER,
    keep_alive_loads=1.0,
)
