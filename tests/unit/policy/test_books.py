"""However decisions, loads, ends and deaths follow each other, no memory, slot or gpu is promised twice."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sllm_tasks.cluster import Gpu, GpuId, NodeInfo, Replica, ReplicaState
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.assign import assign
from sllm_tasks.policy.decision import Assignment, AssignmentPath
from sllm_tasks.policy.effects import carry_out
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, RunningJob, WaitingJob
from tests.unit.policy.views import make_model

_GPUS = tuple(GpuId(node, index) for node in ("node0", "node1") for index in (0, 1))
_CAPACITY_BYTES = 100
_MODELS = {
    model.name: model
    for model in (
        make_model("small", bytes_per_gpu=30, max_jobs=2),
        make_model("other", bytes_per_gpu=30, max_jobs=2),
        make_model("third", bytes_per_gpu=40, max_jobs=1),
        make_model("half", bytes_per_gpu=50, max_jobs=2, max_replicas=2),
        make_model("whole", bytes_per_gpu=90, max_jobs=1),
        make_model("pair", bytes_per_gpu=60, max_jobs=2, num_gpus=2),
    )
}


class Cluster(RuleBasedStateMachine):
    """A cluster that does at once what is decided, and in which anything may happen next."""

    def __init__(self) -> None:
        super().__init__()
        nodes = {
            node: NodeInfo(name=node, checkpoints=frozenset(model.checkpoint for model in _MODELS.values()))
            for node in ("node0", "node1")
        }
        gpus = {gpu: Gpu(id=gpu, worker_id="w", device="cpu", capacity_bytes=_CAPACITY_BYTES) for gpu in _GPUS}
        self.view = ClusterView(now_ms=1, gpus=gpus, nodes=nodes, models=_MODELS)
        self.settings = PolicySettings()
        self.jobs: dict[str, tuple[str, str]] = {}  # job: its model and replica
        self.waiting: list[WaitingJob] = []
        self.ids = count()

    def next_id(self) -> str:
        return f"id_{next(self.ids):04}"

    @rule(
        model=st.sampled_from(sorted(_MODELS)),
        suspect=st.sampled_from([False, False, True]),
        migrate=st.booleans(),
        share=st.booleans(),
    )
    def a_job_comes(self, model: str, suspect: bool, migrate: bool, share: bool) -> None:
        self.settings = PolicySettings(migrate=migrate, share_gpus=share)
        self.decide(WaitingJob(id=self.next_id(), model=model, attempt=1, suspect=suspect, prompt_tokens=10))

    def decide(self, job: WaitingJob) -> bool:
        self.view = self.view.with_running(self.running())
        decision = assign(self.view, job, LearnedEstimates(), self.settings)
        assert decision == assign(self.view, job, LearnedEstimates(), self.settings)
        if decision.choice.path is AssignmentPath.WAIT:
            assert decision.choice.reason
            self.waiting = [*(other for other in self.waiting if other.id != job.id), job]
            return False
        self.check(decision.choice)
        named: list[str] = []

        def new_id() -> str:
            named.append(self.next_id())
            return named[-1]

        before = self.view
        self.view = carry_out(before, job, decision.choice, new_id)
        targets = {
            move.job_id: move.to_replica or next(
                id_ for id_ in named[1:] if self.view.replicas[id_].gpus == move.gpus
                and self.view.replicas[id_].model == before.replicas[move.from_replica].model
            )
            for move in decision.choice.moves
        }  # fmt: skip
        self.jobs |= {job_id: (self.jobs[job_id][0], target) for job_id, target in targets.items()}
        self.jobs[job.id] = (job.model, decision.choice.replica_id or named[0])
        self.waiting = [other for other in self.waiting if other.id != job.id]
        return True

    def check(self, choice: Assignment) -> None:
        replicas = self.view.replicas
        assert len({gpu.node for gpu in choice.gpus}) <= 1
        assert all(replicas[id_].num_jobs == 0 for id_ in choice.victims)
        assert all(replicas[id_].state is not ReplicaState.UNLOADING for id_ in choice.victims)
        moved = {move.job_id for move in choice.moves}
        left = {move.from_replica for move in choice.moves}
        assert moved == {job_id for job_id, (_, replica_id) in self.jobs.items() if replica_id in left}

    def running(self) -> dict[str, tuple[RunningJob, ...]]:
        found: dict[str, tuple[RunningJob, ...]] = {}
        for job_id, (model, replica_id) in self.jobs.items():
            job = RunningJob(id=job_id, model=model, prompt_tokens=10, max_tokens=2_000, started_ms=None)
            found[replica_id] = (*found.get(replica_id, ()), job)
        return found

    @rule()
    def loads_end(self) -> None:
        for replica in list(self.view.replicas.values()):
            self.view = replace(self.changed(replica, state=ReplicaState.READY), loads={})

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def a_job_ends(self, data: st.DataObject) -> None:
        self.end_job(data.draw(st.sampled_from(sorted(self.jobs))))

    def end_job(self, job_id: str) -> None:
        _, replica_id = self.jobs.pop(job_id)
        replica = self.view.replicas[replica_id]
        self.view = self.changed(replica, num_jobs=replica.num_jobs - 1, idle_since_ms=self.view.now_ms)
        gpu = self.view.gpus[replica.leader]
        if gpu.suspect == job_id:
            self.view = replace(self.view, gpus={**self.view.gpus, gpu.id: replace(gpu, suspect="")})

    @precondition(lambda self: len(self.jobs) > 3)
    @rule(gpu=st.sampled_from(_GPUS))
    def a_worker_dies_and_comes_back(self, gpu: GpuId) -> None:
        lost = [replica.id for replica in self.view.replicas.on_gpu(gpu)]
        self.jobs = {job_id: held for job_id, held in self.jobs.items() if held[1] not in lost}
        loads = {
            node: tuple(load for load in some if load.replica_id not in lost) for node, some in self.view.loads.items()
        }
        view = replace(self.view.without_replicas(lost), loads=loads)
        self.view = replace(view, gpus={**view.gpus, gpu: replace(view.gpus[gpu], suspect="")})

    @rule(seconds=st.integers(1, 30))
    def time_passes(self, seconds: int) -> None:
        self.view = replace(self.view, now_ms=self.view.now_ms + 1000 * seconds)

    def changed(self, replica: Replica, **changes: object) -> ClusterView:
        new = replace(replica, **changes)  # type: ignore[arg-type]
        return replace(self.view, replicas=self.view.replicas.with_replicas([new]))

    @invariant()
    def books_are_right(self) -> None:
        for gpu in self.view.gpus.values():
            held = self.view.replicas.on_gpu(gpu.id)
            assert gpu.reserved_bytes == sum(replica.bytes_per_gpu for replica in held) <= gpu.capacity_bytes
        places = [replica_id for _, replica_id in self.jobs.values()]
        for replica in self.view.replicas.values():
            assert replica.num_jobs == places.count(replica.id) <= replica.max_jobs
            assert len(replica.gpus) == _MODELS[replica.model].num_gpus

    def teardown(self) -> None:
        """Once everything that runs has ended, every job that waits starts: all of them fit."""
        for job in list(self.waiting):
            for job_id in list(self.jobs):
                self.end_job(job_id)
            self.loads_end()
            assert self.decide(job)
            self.books_are_right()


Cluster.TestCase.settings = hypothesis_settings(
    max_examples=200,
    stateful_step_count=30,
    deadline=None,
    # Shrinking thirty steps takes minutes; the steps as they were are readable enough.
    phases=set(Phase) - {Phase.shrink},
)
TestBooks = Cluster.TestCase
