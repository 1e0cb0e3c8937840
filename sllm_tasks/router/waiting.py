"""The jobs that wait, as the router knows them from one pass to the next: only what is new is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from sllm_tasks.cluster import EVERY_MODEL, Hold
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.queues import LiveSpec, WaitingRoom
from sllm_tasks.policy.queueing import Kind, Turns
from sllm_tasks.policy.shares import Shares
from sllm_tasks.policy.view import Queue, WaitingJob, queues_of
from sllm_tasks.router.rules import QueueRules

#: How many jobs are told in one pass why they wait, besides those that were decided for: each is a write, and
#: thousands may wait for one reason.
_MAX_TOLD = 64

_PAUSED = "the queue of its model is paused"
_AT_LIMIT = "its tenant runs as many jobs as it may"


class WaitingJobs:
    """Called by one thread, the router's.

    A job that is not what it was in an earlier pass is refused when it is assigned, and read anew after `forget`.
    """

    def __init__(self, live: LiveState, rules: QueueRules, *, max_attempts: int) -> None:
        self._live = live
        self._rules = rules
        self._max_attempts = max_attempts
        self._jobs: dict[str, WaitingJob] = {}
        #: Those that could have been started as the last pass began.
        self.queues: Mapping[str, Mapping[str, Queue]] = {}
        #: Those jobs, and such of tenants that run as many as they may: they have a claim to room all the same.
        self.claims: list[WaitingJob] = []
        # Those of them for which gpus are being emptied.
        self._holders: dict[str, WaitingJob] = {}
        self._shares = Shares()
        # What readers of each job were told last, so that a job that waits on is not written to again.
        self._told: dict[str, str] = {}
        self._held: dict[str, str] = {}

    def begin_pass(self, room: WaitingRoom, now_ms: int) -> Turns:
        """Read the jobs that are new in the waiting room; raises UnavailableError."""
        self._rules.follow(room)
        if room.gates is None:
            # The live state is a new one: so are its counts, and what it says of jobs that waited in the old one.
            self._shares = Shares()
            for job_id in list(self._jobs):
                self.forget(job_id)
        self._read_new(room)
        may_start = self._rules.may_start(room.running, frozenset(job.tenant for job in self._jobs.values()))
        held_before, self._held = self._held, {}
        startable = [
            self._waiting_since(job, now_ms) if job.id in held_before else job
            for job in list(self._jobs.values())
            if not self._is_held(job, now_ms, may_start)
        ]
        self.queues = queues_of(startable)
        self.claims = startable + [job for job in self._jobs.values() if self._held.get(job.id) == _AT_LIMIT]
        tenants = {job.tenant for job in startable}
        self._shares = self._shares.brought_up(room.served, tenants, self._rules.weights())
        return Turns(startable, self._shares, weights=self._rules.weights(), may_start=may_start)

    def end_pass(self, turns: Turns, reasons: dict[Kind, str]) -> None:
        """Remember what this pass did for the next, and tell jobs that were not decided for why they wait."""
        self._shares = replace(self._shares, batch_credit=turns.batch_credit)
        num_told = 0
        for job, reason in self._reasons(reasons):
            if num_told == _MAX_TOLD:
                return
            num_told += self.tell(job, reason)

    def tell(self, job: WaitingJob, reason: str) -> bool:
        """Tell readers of a job why it waits; False if that is no news."""
        if self._told.get(job.id) == reason:
            return False
        self._told[job.id] = reason
        self._live.router.note_wait(job.id, job.attempt, reason)
        return True

    def note_hold(self, job: WaitingJob, hold: Hold) -> None:
        """Gpus are being emptied for a job."""
        self._jobs[job.id] = self._holders[job.id] = replace(job, hold=hold)

    def holders(self, now_ms: int) -> list[WaitingJob]:
        """Jobs for which gpus are being emptied."""
        return [job for job in self._holders.values() if job.hold is not None and job.hold.until_ms > now_ms]

    def forget(self, job_id: str) -> None:
        """A job has its place, or is not what we think it is."""
        self._jobs.pop(job_id, None)
        self._holders.pop(job_id, None)
        self._told.pop(job_id, None)

    def _read_new(self, room: WaitingRoom) -> None:
        there = frozenset(room.job_ids)
        for job_id in self._jobs.keys() - there:
            self.forget(job_id)
        new = [job_id for job_id in room.job_ids if job_id not in self._jobs]
        for found in self._live.queues.specs(new) if new else ():
            # A job without a chance left is the sweeper's to end.
            if found is not None and found.losses < self._max_attempts:
                job = self._jobs[found.spec.job_id] = self._waiting_job(found)
                if job.hold is not None:
                    self._holders[job.id] = job

    def _is_held(self, job: WaitingJob, now_ms: int, may_start: Mapping[str, int]) -> bool:
        paused = self._rules.gates.paused
        if job.model in paused or EVERY_MODEL in paused:
            self._held[job.id] = _PAUSED
        elif job.tenant in may_start and may_start[job.tenant] <= 0:
            self._held[job.id] = _AT_LIMIT
        # What is too late is not started; the sweeper ends it within a second.
        return job.id in self._held or (job.deadline_ms is not None and job.deadline_ms <= now_ms)

    def _waiting_since(self, job: WaitingJob, now_ms: int) -> WaitingJob:
        """A job that nothing holds any more: only from now on it waits for a place."""
        job = self._jobs[job.id] = replace(job, waits_since_ms=now_ms)
        return job

    def _reasons(self, reasons: dict[Kind, str]) -> Iterator[tuple[WaitingJob, str]]:
        for job in self._jobs.values():
            held, told = self._held.get(job.id), self._told.get(job.id)
            if held is not None:
                yield job, held
            # One reason is enough for whoever is far from the head of the line: it changes only there.
            elif told in {None, _PAUSED, _AT_LIMIT} and (reason := reasons.get(Kind.of(job))) is not None:
                yield job, reason

    def _waiting_job(self, found: LiveSpec) -> WaitingJob:
        spec = found.spec
        return WaitingJob(
            id=spec.job_id,
            model=spec.model,
            checkpoint=spec.checkpoint,
            shape=spec.shape,
            attempt=found.attempt,
            priority=spec.priority,
            created_ms=spec.created_ms,
            waits_since_ms=found.waits_since_ms,
            suspect=found.losses > 0 and found.losses >= self._max_attempts - 1,
            prompt_tokens=found.prompt_tokens,
            max_tokens=spec.params.max_tokens,
            tenant=spec.tenant,
            job_class=spec.job_class,
            deadline_ms=spec.deadline_ms,
            hold=found.hold,
        )
