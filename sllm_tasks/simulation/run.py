"""One simulation: a system meets a scenario."""

from __future__ import annotations

from functools import partial
from itertools import count
from random import Random

from sllm_tasks.cluster import GpuId, ReplicaState
from sllm_tasks.estimators.facts import ArrivalFact, JobFact, StartFact
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.decision import Move
from sllm_tasks.simulation.clock import Clock
from sllm_tasks.simulation.decoding import Decoding
from sllm_tasks.simulation.fleet import Fleet, SimJob, SimOutcome, SimReplica
from sllm_tasks.simulation.life import Life
from sllm_tasks.simulation.loading import Loading
from sllm_tasks.simulation.moving import Moving
from sllm_tasks.simulation.nodes import Node
from sllm_tasks.simulation.results import JobRecord, RunRecord
from sllm_tasks.simulation.scenario import NodeFailure, Scenario
from sllm_tasks.simulation.start import calibrate, deployed_models, fill_stores
from sllm_tasks.simulation.system import Order, System
from sllm_tasks.simulation.waiting import Waiting
from sllm_tasks.traces.records import TraceRequest

#: After the last arrival, until everything that started has surely ended.
_COOL_DOWN_S = 3_600.0


class Simulation:
    """Plays a scenario once; belongs to one thread."""

    def __init__(self, scenario: Scenario, system: System, *, checked: bool = False) -> None:
        """With `checked`, what must always hold is checked after every decision; ValueError if it does not."""
        self._scenario = scenario
        self._system = system
        self._is_checked = checked
        self._clock = Clock()
        self._models = scenario.hardware.models_by_name
        nodes = [Node(self._clock, node, system.loader.discipline) for node in scenario.hardware.nodes]
        self.fleet = Fleet(nodes, deployed_models(scenario, system))
        self._estimates = LearnedEstimates()
        self._decoding = Decoding(self._clock, self._finish)
        drawn = Random(scenario.seed)  # noqa: S311 - draws of a simulation, which a seed repeats
        ratios = scenario.load_ratios or (1.0,)
        self._loading = Loading(
            self._clock, system.loader, self._estimates.learn, draw_ratio=lambda: drawn.choice(ratios)
        )
        self._moving = Moving(
            self._clock,
            self.fleet,
            self._decoding,
            load=self._load_target,
            moved=self._take_over,
            learn=self._estimates.learn,
        )
        self._waiting = Waiting(
            self._clock,
            self.fleet,
            system.make_policy(scenario.seed),
            self._estimates,
            timeout_s=scenario.timeout_s,
            settle=self._loading.settle,
            carry_out=self._decided,
            expired=self._leave,
        )
        self._life = Life(
            self._clock, self.fleet, self._estimates, system, load=self._load_replica, remove=self._remove
        )
        self._held_gpu_s = 0.0
        self._jobs: list[SimJob] = []
        self._numbers = count(1)
        self._max_tokens = max((request.output_tokens for request in scenario.trace.requests), default=1)

    def run(self) -> RunRecord:
        """Play it to its end."""
        fill_stores(self.fleet, self._scenario, self._system)
        if self._scenario.facts:
            for fact in self._scenario.facts:
                self._estimates.learn(fact)
        else:
            calibrate(self.fleet, self._system.loader, self._estimates)
        self._life.begin(self._scenario.trace.duration_s, lambda: self._waiting.is_anybody_there)
        for number, request in enumerate(self._scenario.trace.requests):
            self._clock.at(request.arrival_s + self._scenario.dispatch_s, partial(self._arrive, number, request))
        for failure in self._scenario.failures:
            self._clock.at(failure.at_s, partial(self._fail, failure))
            self._clock.at(failure.until_s, partial(self._recover, failure))
        self._clock.run(self._scenario.trace.duration_s + self._scenario.timeout_s + _COOL_DOWN_S)
        for replica in self.fleet.replicas.values():
            self._charge(replica)
        return RunRecord(
            system=self._system.name,
            scenario=self._scenario.name,
            seed=self._scenario.seed,
            timeout_s=self._scenario.timeout_s,
            held_gpu_s=self._held_gpu_s,
            jobs=tuple(JobRecord.of(job, self._scenario.timeout_s) for job in self._jobs),
        )

    # Jobs: from their arrival to their end.

    def _arrive(self, number: int, request: TraceRequest) -> None:
        prefill_work = self._models[request.model].prefill_ratio * request.input_tokens
        job = SimJob(
            id=f"job_{number:06}",
            request=request,
            created_s=request.arrival_s,
            work=prefill_work + request.output_tokens,
            prefill_work=prefill_work,
            max_tokens=self._max_tokens,
        )
        self._jobs.append(job)
        self._estimates.learn(ArrivalFact(model=request.model, at_s=self._clock.now_s))
        self._waiting.add(job)

    def _give(self, job: SimJob, replica: SimReplica) -> None:
        self._waiting.placed(job)
        replica.jobs[job.id] = job
        job.replica = replica
        if replica.state is ReplicaState.READY:
            self._start(job, replica)

    def _start(self, job: SimJob, replica: SimReplica) -> None:
        """Let a job begin on a loaded replica, or go on there: at once, or when its prompt has its turn."""
        now_s = self._clock.now_s
        if job.started_s is None:
            # As in a worker, whose engine has it from now on.
            job.started_s = now_s
        if not self._system.reads_in_turn or job.work_done >= job.prefill_work:
            self._begin(job, replica)
            return
        begin_s = max(now_s, replica.reading_until_s)
        replica.reading_until_s = begin_s + (job.prefill_work - job.work_done) * self._decoding.step_s(replica)
        if begin_s == now_s:
            self._begin(job, replica)
        else:
            attempt = job.attempt
            self._clock.at(begin_s, lambda: self._begin_in_turn(job, replica, attempt))

    def _begin_in_turn(self, job: SimJob, replica: SimReplica, attempt: int) -> None:
        if job.replica is replica and job.attempt == attempt:
            self._begin(job, replica)

    def _begin(self, job: SimJob, replica: SimReplica) -> None:
        now_s = self._clock.now_s
        self._waiting.started(job)
        if job.stopped_s is not None:
            job.paused_s += now_s - job.stopped_s
        job.stopped_s = None
        self._decoding.start(job, replica)
        if job.work_done < job.prefill_work:
            job.read_s = (job.prefill_work - job.work_done) * self._decoding.step_s(replica)
            job.first_token_s = now_s + job.read_s

    def _finish(self, job: SimJob) -> None:
        now_s = self._clock.now_s
        job.ended_s, job.outcome = now_s, SimOutcome.FINISHED
        if job.started_s is not None and job.first_token_s is not None and job.replica is not None:
            tokens = job.request.output_tokens
            fact = JobFact(
                model=job.request.model,
                prompt_tokens=job.request.input_tokens,
                completion_tokens=tokens,
                # Of jobs that stood still these times tell nothing.
                first_token_s=None if job.paused_s else job.read_s,
                token_s=None if job.paused_s else (now_s - job.first_token_s) / tokens,
                batch=self._decoding.batch_of(job.replica) + 1,
                node=job.replica.node.name,
            )
            self._estimates.learn(fact)
            if job.total is not None and not job.paused_s:
                actual_s = job.first_token_s - job.decided_s
                self._estimates.learn(StartFact(path=job.path, total=job.total, actual_s=actual_s))
        self._leave(job)

    def _leave(self, job: SimJob) -> None:
        """A job gives up its place."""
        replica, job.replica = job.replica, None
        if replica is None:
            return
        self._decoding.stop(job, replica)
        replica.jobs.pop(job.id, None)
        if not replica.num_jobs:
            replica.idle_since_s = self._clock.now_s
            if replica.is_leaving:
                self._remove(replica)
            elif replica.state in {ReplicaState.READY, ReplicaState.DRAINING}:
                self._life.idle(replica)
        self._waiting.request_pass()

    def _lose(self, job: SimJob, *, resumes: bool) -> None:
        """A job loses its replica and waits for another."""
        replica = job.replica
        if replica is None:
            return
        self._decoding.stop(job, replica)
        replica.jobs.pop(job.id, None)
        job.replica = None
        job.attempt += 1
        if job.started_s is not None and job.stopped_s is None:
            job.stopped_s = self._clock.now_s
        if not resumes:
            job.work_done = 0.0
        elif job.work_done > job.prefill_work:
            # Its tokens are read again before the next one comes.
            job.work += replica.model.prefill_ratio * (job.request.input_tokens + job.work_done - job.prefill_work)
        self._waiting.add(job)

    def _take_over(self, job: SimJob, target: SimReplica) -> None:
        """A moved job goes on, on its new replica or, if that died, on its old one."""
        source = job.replica
        if source is not None and source is not target:
            self._leave(job)
        target.jobs[job.id] = job
        job.replica = target
        self._start(job, target)

    # Replicas: from their load to their end.

    def _create(self, name: str, gpus: tuple[GpuId, ...], victims: tuple[str, ...]) -> SimReplica:
        for victim in victims:
            self._remove(self.fleet.replicas[victim])
        replica = SimReplica(
            id=f"replica_{next(self._numbers):06}",
            model=self._models[name],
            info=self.fleet.models[name],
            node=self.fleet.nodes[gpus[0].node],
            gpus=gpus,
            created_s=self._clock.now_s,
            idle_since_s=self._clock.now_s,
        )
        replica.find_source()
        self.fleet.replicas[replica.id] = replica
        return replica

    def _load_target(self, source: SimReplica, move: Move) -> SimReplica:
        return self._load_replica(source.model.name, move.gpus, move.victims)

    def _load_replica(self, name: str, gpus: tuple[GpuId, ...], victims: tuple[str, ...]) -> SimReplica:
        replica = self._create(name, gpus, victims)
        self._loading.begin(replica, self._ready)
        return replica

    def _ready(self, replica: SimReplica) -> None:
        replica.state = ReplicaState.READY
        replica.ready_s = replica.idle_since_s = self._clock.now_s
        for job in list(replica.jobs.values()):
            self._start(job, replica)
        self._moving.target_ready(replica)
        if not replica.num_jobs:
            self._life.idle(replica)
        self._waiting.request_pass()

    def _remove(self, replica: SimReplica) -> None:
        """Free a replica's memory; whoever waited for it may load."""
        del self.fleet.replicas[replica.id]
        self._charge(replica)
        self._loading.cancel(replica)
        self._moving.target_gone(replica)
        for other in list(self.fleet.replicas.values()):
            if replica.id in other.awaits:
                other.awaits.discard(replica.id)
                if not other.awaits:
                    self._loading.begin(other, self._ready)
        self._waiting.request_pass()

    def _charge(self, replica: SimReplica) -> None:
        """Count what a replica has held of its gpus while there were requests."""
        until_s = min(self._clock.now_s, self._scenario.trace.duration_s)
        self._held_gpu_s += len(replica.gpus) * max(0.0, until_s - replica.created_s)

    # Decisions, carried out.

    def _decided(self, job: SimJob, order: Order) -> None:
        self._carry_out(job, order)
        if self._is_checked:
            self.fleet.check()

    def _carry_out(self, job: SimJob, order: Order) -> None:
        choice = order.decision.choice
        chosen = order.decision.chosen
        job.path, job.decided_s = choice.path.value, self._clock.now_s
        job.predicted, job.total = (None, None) if chosen is None else (chosen.start, chosen.total)
        for replica_id in order.preempted:
            preempted = self.fleet.replicas[replica_id]
            for other in list(preempted.jobs.values()):
                self._lose(other, resumes=False)
            self._remove(preempted)
        if choice.replica_id is not None:
            self._give(job, self.fleet.replicas[choice.replica_id])
            return
        replica = self._create(job.request.model, choice.gpus, choice.victims)
        self._give(job, replica)
        if choice.moves:
            replica.awaits = {move.from_replica for move in choice.moves}
            self._moving.begin(choice.moves)
        else:
            self._loading.begin(replica, self._ready)

    # Faults.

    def _fail(self, failure: NodeFailure) -> None:
        node = self.fleet.nodes[failure.node]
        node.is_up = False
        for replica in [replica for replica in self.fleet.replicas.values() if replica.node is node]:
            for job in list(replica.jobs.values()):
                self._lose(job, resumes=self._system.resumes)
            if replica.id in self.fleet.replicas:
                self._remove(replica)
        node.reboot()

    def _recover(self, failure: NodeFailure) -> None:
        self.fleet.nodes[failure.node].is_up = True
        self._waiting.request_pass()
