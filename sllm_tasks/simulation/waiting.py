"""Jobs until they start: they wait for a place, passes decide for them, and their time runs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from sllm_tasks.cluster import ReplicaState
from sllm_tasks.estimators.base import Estimates
from sllm_tasks.policy.decision import AssignmentPath
from sllm_tasks.policy.queueing import Turns
from sllm_tasks.policy.shares import Shares
from sllm_tasks.policy.view import ClusterView, WaitingJob, queues_of
from sllm_tasks.simulation.clock import Clock, Timer
from sllm_tasks.simulation.fleet import Fleet, SimJob, SimOutcome
from sllm_tasks.simulation.system import Order, Policy


class Waiting:
    """All jobs of a simulation that have not started, or stand still after they had."""

    def __init__(  # noqa: PLR0913 - the parts of a simulation meet here
        self,
        clock: Clock,
        fleet: Fleet,
        policy: Policy,
        estimates: Estimates,
        *,
        timeout_s: float,
        settle: Callable[[], None],
        carry_out: Callable[[SimJob, Order], None],
        expired: Callable[[SimJob], None],
    ) -> None:
        """`settle` brings the fleet up to date before a pass, `carry_out` does what one decides.

        `expired` hears of jobs that did not start in time.
        """
        self._clock = clock
        self._fleet = fleet
        self._policy = policy
        self._estimates = estimates
        self._timeout_s = timeout_s
        self._settle = settle
        self._carry_out = carry_out
        self._expired = expired
        self._jobs: dict[str, tuple[SimJob, WaitingJob]] = {}
        self._expiries: dict[str, Timer] = {}
        self._is_due = False
        # Models whose jobs have to be decided anew; None: all, because what they may have has changed.
        self._concerned: set[str] | None = set()

    @property
    def is_anybody_there(self) -> bool:
        """Whether any job waits for a place."""
        return bool(self._jobs)

    def add(self, job: SimJob) -> None:
        """Let a job wait for a place; what it has waited and stood still already counts."""
        self.started(job)
        started_s = job.started_s if job.started_s is not None else self._clock.now_s
        left_s = self._timeout_s - (started_s - job.created_s) - job.paused_s
        deadline_s = self._clock.now_s + left_s
        self._jobs[job.id] = (job, job.as_waiting(self._clock.now_s, deadline_s))
        self._expiries[job.id] = self._clock.at(deadline_s, partial(self._expire, job))
        self.request_pass(job.request.model)

    def placed(self, job: SimJob) -> None:
        """A job has a place, and perhaps waits for that to be loaded."""
        self._jobs.pop(job.id, None)

    def started(self, job: SimJob) -> None:
        """A job does not expire any more."""
        if (expiry := self._expiries.pop(job.id, None)) is not None:
            expiry.cancel()

    def request_pass(self, model: str | None = None) -> None:
        """Look at the waiting jobs again; those of one model, if nothing has changed but that it has one more."""
        if model is None:
            self._concerned = None
        elif self._concerned is not None:
            self._concerned.add(model)
        if not self._is_due:
            self._is_due = True
            self._clock.at(self._clock.now_s, self._pass)

    def _expire(self, job: SimJob) -> None:
        self._jobs.pop(job.id, None)
        self._expiries.pop(job.id, None)
        job.ended_s, job.outcome = self._clock.now_s, SimOutcome.EXPIRED
        self._expired(job)

    def _pass(self) -> None:
        self._is_due = False
        self._settle()
        queues = queues_of(job for _, job in self._jobs.values())
        view = self._open(replace(self._fleet.view(self._clock.now_s), queues=queues))
        concerned, self._concerned = self._concerned, set()
        waiting = [job for _, job in self._jobs.values() if concerned is None or job.model in concerned]
        turns = Turns(waiting, Shares(), weights={}, may_start={})
        while (turn := turns.next()) is not None:
            seen = replace(view, num_waiting={turn.job.model: turn.num_ahead}, queues=queues)
            order = self._policy.decide(seen, turn.job, self._estimates)
            if order.decision.choice.path is AssignmentPath.WAIT:
                turns.waits(turn.job)
                drained = self._policy.drained(seen, turn.job)
                for replica_id in drained:
                    self._fleet.replicas[replica_id].state = ReplicaState.DRAINING
                view = view.with_draining(drained)
            else:
                self._carry_out(self._jobs[turn.job.id][0], order)
                turns.started(turn.job)
                view = self._fleet.view(self._clock.now_s)

    def _open(self, view: ClusterView) -> ClusterView:
        """Let replicas take jobs again that nobody needs closed any more."""
        opened = self._policy.opened(view, [job for _, job in self._jobs.values()])
        for replica_id in opened:
            self._fleet.replicas[replica_id].state = ReplicaState.READY
            self._concerned = None
        return view.with_open(opened)
