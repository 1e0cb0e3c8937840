"""One pass of the router: look at the cluster, decide for every waiting job, carry out what still holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from sllm_tasks.cluster import Hold
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import StartKind
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.router import Applied, NewReplica
from sllm_tasks.policy.assign import assign
from sllm_tasks.policy.decision import Assignment, AssignmentPath, Decision
from sllm_tasks.policy.drain import replicas_to_drain, replicas_to_open
from sllm_tasks.policy.effects import carry_out
from sllm_tasks.policy.holds import without_held
from sllm_tasks.policy.options import MOVING_REASON
from sllm_tasks.policy.queueing import Kind, Turn, Turns
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, WaitingJob
from sllm_tasks.router.describing import describe_candidates, describe_choice
from sllm_tasks.router.life import ReplicaLife
from sllm_tasks.router.misfits import Misfits
from sllm_tasks.router.moving import Moving
from sllm_tasks.router.running import with_jobs_of, with_running_jobs
from sllm_tasks.router.snapshot import Snapshot
from sllm_tasks.router.waiting import WaitingJobs

logger = logging.getLogger(__name__)

#: How often a decision is made anew because the world had changed under it.
_MAX_TRIES = 4

#: What the simulator tries out is what the router does, unless its settings say otherwise.
LIVE_POLICY = PolicySettings()

_START_KINDS = {
    AssignmentPath.WARM: StartKind.WARM,
    AssignmentPath.LOAD_DRAM: StartKind.COLD_DRAM,
    AssignmentPath.LOAD_SSD: StartKind.COLD_SSD,
    AssignmentPath.LOAD_REMOTE: StartKind.COLD_REMOTE,
}


class Router:
    """Called by one thread: Celery's solo pool."""

    def __init__(  # noqa: PLR0913 - what a router consists of, and one choice
        self,
        live: LiveState,
        dispatcher: Dispatcher,
        snapshot: Snapshot,
        waiting: WaitingJobs,
        misfits: Misfits,
        epoch: Callable[[], int],
        *,
        policy: PolicySettings = LIVE_POLICY,
    ) -> None:
        self._live = live
        self._policy = policy
        self._dispatcher = dispatcher
        self._snapshot = snapshot
        self._epoch = epoch
        self._waiting = waiting
        self._misfits = misfits
        self._moving = Moving(live, epoch)
        self._life = ReplicaLife(live, dispatcher, epoch, policy)

    def run_pass(self) -> None:
        """Serve the waiting jobs in their turns, then look after replicas that no job asks for."""
        view, room = self._snapshot.begin_pass()
        turns, reasons = self._waiting.begin_pass(room, view.now_ms), dict[Kind, str]()
        view = self._open(view)
        while (turn := turns.next()) is not None:
            view = self._serve(view, turn, turns, reasons)
        self._waiting.end_pass(turns, reasons)
        self._misfits.end_pass(self._waiting.claims)
        holders = self._waiting.holders(view.now_ms)
        self._life.look_after(view, self._snapshot.estimates, holders, anybody_waits=bool(reasons))
        self._snapshot.learn(view.now_ms)

    def _serve(self, view: ClusterView, turn: Turn, turns: Turns, reasons: dict[Kind, str]) -> ClusterView:
        job = turn.job
        if job.model not in view.models:
            self._snapshot.refresh_models()
            view = self._snapshot.view()
        for _ in range(_MAX_TRIES):
            view, found = self._decide(view, turn)
            decision, decision_id = found.choice, new_id("decision")
            if not decision.fits_nowhere:
                self._misfits.fits(job)
            elif self._misfits.ended(job, decision.reason, view.now_ms):
                turns.gone(job)
                self._waiting.forget(job.id)
                return view
            if decision.path is AssignmentPath.WAIT:
                turns.waits(job)
                reasons.setdefault(Kind.of(job), decision.reason)
                if self._waiting.tell(job, decision.reason):
                    self._report(view, job, found, decision_id)
                # Not only for as long as this one has waited: others of its kind may have waited for its turn.
                return self._make_room(view, replace(job, waits_since_ms=turn.oldest_ms))
            if decision.path is AssignmentPath.MIGRATE:
                applied, view_after = self._begin_moves(view, job, found)
            else:
                applied, view_after = self._apply(view, job, decision, decision_id)
            if applied is Applied.OK:
                self._report(view, job, found, decision_id)
                if decision.path is AssignmentPath.MIGRATE:
                    turns.waits(job)
                    reasons.setdefault(Kind.of(job), MOVING_REASON)
                    self._waiting.tell(job, MOVING_REASON)
                else:
                    turns.started(job)
                    self._waiting.forget(job.id)
                return view_after
            if applied in {Applied.GONE, Applied.STALE_ROUTER}:
                turns.gone(job)
                self._waiting.forget(job.id)
                return view
            view = self._snapshot.view()
        turns.waits(job)
        return view

    def _decide(self, view: ClusterView, turn: Turn) -> tuple[ClusterView, Decision]:
        """Decide for a job; the view comes back with the running jobs that were read for that."""
        view = replace(view, num_waiting={turn.job.model: turn.num_ahead}, queues=self._waiting.queues)
        job = self._with_hold(turn.job, view.now_ms)
        view = with_running_jobs(self._live, view, job)
        found = assign(self._seen_by(view, job), job, self._snapshot.estimates, self._policy)
        if found.unknown:
            view = with_jobs_of(self._live, view, [view.replicas[replica_id] for replica_id in found.unknown])
            found = assign(self._seen_by(view, job), job, self._snapshot.estimates, self._policy)
        return view, found

    def _with_hold(self, job: WaitingJob, now_ms: int) -> WaitingJob:
        """Gpus that are being emptied for one job serve all of its kind."""
        holds = [each.hold for each in self._waiting.holders(now_ms) if Kind.of(each) == Kind.of(job)]
        return replace(job, hold=holds[0] if holds else None)

    def _seen_by(self, view: ClusterView, job: WaitingJob) -> ClusterView:
        """The cluster without what is held for others."""
        for holder in self._waiting.holders(view.now_ms):
            if Kind.of(holder) != Kind.of(job):
                view = without_held(view, holder)
        return view

    def _begin_moves(self, view: ClusterView, job: WaitingJob, decision: Decision) -> tuple[Applied, ClusterView]:
        begun = self._moving.begin(job, decision, view.now_ms)
        if not isinstance(begun, Hold):
            return begun, view
        self._waiting.note_hold(job, begun)
        return Applied.OK, self._snapshot.view()

    def _make_room(self, view: ClusterView, job: WaitingJob) -> ClusterView:
        """Close replicas to new jobs when a job has waited long enough for their memory."""
        drained = tuple(
            replica_id
            for replica_id in replicas_to_drain(self._seen_by(view, job), job)
            if self._live.router.drain(epoch=self._epoch(), replica_id=replica_id)
        )
        for replica_id in drained:
            logger.info("job %s waits: replica %s takes no more jobs", job.id, replica_id)
        return view.with_draining(drained)

    def _open(self, view: ClusterView) -> ClusterView:
        """Let replicas take jobs again that were closed for nobody who waits now."""
        seen = replace(view, queues=self._waiting.queues)
        for holder in self._waiting.holders(view.now_ms):
            seen = without_held(seen, holder)
        chosen = [seen.replicas[id_] for id_ in replicas_to_open(seen, self._waiting.claims)]
        if not chosen:
            return view
        # Only of these few it has to be known whether their jobs are on the move.
        seen = with_jobs_of(self._live, seen, chosen)
        opened = tuple(
            replica_id
            for replica_id in replicas_to_open(seen, self._waiting.claims)
            if self._live.router.open(epoch=self._epoch(), replica_id=replica_id)
        )
        for replica_id in opened:
            logger.info("replica %s takes jobs again", replica_id)
        return view.with_open(opened)

    def _apply(
        self, view: ClusterView, job: WaitingJob, decision: Assignment, decision_id: str
    ) -> tuple[Applied, ClusterView]:
        model, replica_id = view.model_of(job), decision.replica_id or new_id("replica")
        view_after = carry_out(view, job, decision, lambda: replica_id)
        leader = view_after.replicas[replica_id].leader
        new = NewReplica(model=model, gpus=decision.gpus, victims=decision.victims) if decision.gpus else None
        applied = self._live.router.apply(
            epoch=self._epoch(),
            job_id=job.id,
            attempt=job.attempt,
            replica_id=replica_id,
            start_kind=_START_KINDS[decision.path],
            decision_id=decision_id,
            suspect=job.suspect,
            new=new,
        )
        if applied is Applied.OK:
            self._dispatcher.run_job(leader, job.id, job.attempt)
            if new is not None:
                logger.info("job %s: load %s on %s, evicting %d", job.id, model.name, leader, len(new.victims))
        return applied, view_after

    def _report(self, view: ClusterView, job: WaitingJob, decision: Decision, decision_id: str) -> None:
        data = {
            "id": decision_id,
            "job_id": job.id,
            "attempt": job.attempt,
            "at_ms": view.now_ms,
            "path": decision.choice.path,
            "choice": describe_choice(decision),
            "candidates": describe_candidates(decision),
            "predicted_s": None if decision.start is None else decision.start.seconds,
        }
        self._live.reports.add("decision", data)


def route(router: Router) -> None:
    """Run a pass; without the live state or the ledger it is left to the next trigger."""
    try:
        router.run_pass()
    except UnavailableError as error:
        logger.warning("pass given up: %s", error)
