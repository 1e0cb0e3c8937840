"""Memory and places are never promised twice, whatever happens in which order: the scripts against a small model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sllm_tasks.cluster import REPLICA_TRANSITIONS, GpuId, Replica, ReplicaState
from sllm_tasks.jobs import JobStatus
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.fleet import ReplicaOrder
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.livestate.router import Applied, NewReplica
from tests.integration.livestate.world import FAR_MS, SUCCEEDED, World, job_spec, model_info
from tests.support.valkey import ValkeyServer

_CAPACITY_BYTES = 100
_GPUS = (GpuId("node0", 0), GpuId("node0", 1))
#: What a replica may be loaded on; the first one's worker leads it.
_GROUPS = (*((gpu,) for gpu in _GPUS), _GPUS, _GPUS[::-1])
_MODELS = ("a", "b")


def reachable(state: ReplicaState) -> set[ReplicaState]:
    """States that may follow, at once or later."""
    found: set[ReplicaState] = set()
    new = set(REPLICA_TRANSITIONS[state])
    while new:
        found |= new
        new = {after for state in new for after in REPLICA_TRANSITIONS[state]} - found
    return found


@dataclass(slots=True)
class _Job:
    model: str
    attempt: int = 1
    claim: Claim | None = None


class LiveStateMachine(RuleBasedStateMachine):
    """Routers, workers, users and faults in random order; after each step the books must balance."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.redis.flushall()
        self.epoch = self.world.lead()
        # Whether the worker of each gpu lives; ids in `jobs` have not ended.
        self.workers: dict[GpuId, str] = {}
        self.jobs: dict[str, _Job] = {}
        self.num_made = 0
        self.states: dict[str, ReplicaState] = {}
        for gpu in _GPUS:
            self.worker_starts(gpu)

    def _next(self, kind: str) -> str:
        self.num_made += 1
        return f"{kind}_{self.num_made}"

    @rule(gpu=st.sampled_from(_GPUS))
    def worker_starts(self, gpu: GpuId) -> None:
        worker = self._next("worker")
        self.world.add_gpu(gpu, worker, capacity_bytes=_CAPACITY_BYTES)
        self.workers[gpu] = worker
        self._look_at_attempts()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        gpu = data.draw(st.sampled_from(sorted(self.workers)))
        del self.workers[gpu]
        self.world.silence(gpu)
        assert self.world.live.fleet.reap_gpu(gpu) >= 0
        self._look_at_attempts()

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def worker_comes_back_with_what_it_has_loaded(self, data: st.DataObject) -> None:
        gpu = data.draw(st.sampled_from(sorted(self.workers)))
        replicas = [self._replica(replica_id) for replica_id in self._replicas(gpu)]
        loaded = [each for each in replicas if each.leader == gpu and each.state is ReplicaState.READY]
        self.world.silence(gpu)
        assert self.world.live.fleet.reap_gpu(gpu) >= 0
        orders = [ReplicaOrder(replica=replica) for replica in loaded]
        self.world.add_gpu(gpu, self.workers[gpu], *orders, capacity_bytes=_CAPACITY_BYTES)
        self._look_at_attempts()

    @rule(models=st.lists(st.sampled_from(_MODELS), min_size=1, max_size=6))
    def users_submit(self, models: list[str]) -> None:
        for model in models:
            job_id = self._next("job")
            self.jobs[job_id] = _Job(model)
            self.world.live.jobs.create(job_spec(job_id, model=model))

    @precondition(lambda self: self.world.live.jobs.num_waiting())
    @rule(data=st.data(), gpus=st.sampled_from(_GROUPS), num_bytes=st.integers(10, 60), slots=st.integers(1, 3))
    def router_loads(self, data: st.DataObject, gpus: tuple[GpuId, ...], num_bytes: int, slots: int) -> None:
        job_id = data.draw(st.sampled_from(self.world.live.jobs.waiting()))
        job, replicas = self.jobs[job_id], sorted({id_ for gpu in gpus for id_ in self._replicas(gpu)})
        victims = data.draw(st.lists(st.sampled_from(replicas), unique=True, max_size=2)) if replicas else []
        model = model_info(job.model, num_bytes=num_bytes, slots=slots)
        new = NewReplica(model=model, gpus=gpus, victims=tuple(victims))
        applied = self.world.apply(job_id, self._next("replica"), new, epoch=self.epoch, attempt=job.attempt)
        assert applied is not Applied.OK or self.workers.keys() >= set(gpus)

    @precondition(lambda self: self.world.live.jobs.num_waiting() and self._all_replicas())
    @rule(data=st.data())
    def router_joins(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.world.live.jobs.waiting()))
        replica_id = data.draw(st.sampled_from(self._all_replicas()))
        self.world.apply(job_id, replica_id, epoch=self.epoch, attempt=self.jobs[job_id].attempt)

    @precondition(lambda self: self._all_replicas())
    @rule(data=st.data(), what=st.sampled_from(["ready", "drain", "open", "unload", "drop"]))
    def replica_changes(self, data: st.DataObject, what: str) -> None:
        fleet, replica_id = self.world.live.fleet, data.draw(st.sampled_from(self._all_replicas()))
        if what == "ready":
            fleet.replica_ready(replica_id)
        elif what == "drain":
            self.world.live.router.drain(epoch=self.epoch, replica_id=replica_id)
        elif what == "open":
            self.world.live.router.open(epoch=self.epoch, replica_id=replica_id)
        elif what == "unload":
            fleet.unload_replica(replica_id)
        else:
            fleet.drop_replica(replica_id)

    @rule(gpu=st.sampled_from(_GPUS))
    def worker_gets_every_message(self, gpu: GpuId) -> None:
        worker = self.workers.get(gpu, "worker_gone")
        for job_id, job in self.jobs.items():
            answer = self.world.live.jobs.claim(job_id, job.attempt, gpu, worker, FAR_MS)
            if isinstance(answer, Claim):
                assert job.claim is None, "a job that is owned was claimed"
                job.claim = answer

    @rule()
    def workers_free_what_was_closed(self) -> None:
        for replica in self._all_replicas():
            if self._replica(replica).state is ReplicaState.UNLOADING:
                self.world.live.fleet.drop_replica(replica)

    @precondition(lambda self: any(job.claim for job in self.jobs.values()))
    @rule(data=st.data(), what=st.sampled_from(["finish", "release", "silence"]))
    def owner_leaves(self, data: st.DataObject, what: str) -> None:
        owned = sorted(job_id for job_id, job in self.jobs.items() if job.claim)
        job_id = data.draw(st.sampled_from(owned))
        job, jobs = self.jobs[job_id], self.world.live.jobs
        assert job.claim is not None
        if what == "finish":
            assert jobs.finish(job.claim, SUCCEEDED) == "ok"
            jobs.end(job_id, JobStatus.SUCCEEDED, {})
            del self.jobs[job_id]
            return
        if what == "release":
            assert jobs.release(job.claim, "hand_over") == "ok"
        else:
            self.world.make_due(job_id)
            assert jobs.sweep(job_id, 5).requeued
        self._look_at_attempts()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def ledger_ends(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        self.world.live.jobs.end(job_id, JobStatus.CANCELED, {})
        del self.jobs[job_id]

    @invariant()
    def memory_and_places_add_up(self) -> None:
        views = self.world.live.jobs.views(sorted(self.jobs))
        placed = [view.replica_id for view in views if view]
        for gpu in self.world.live.fleet.gpus():
            promised_bytes = 0
            for replica in map(self._replica, self._replicas(gpu.id)):
                assert replica.num_jobs == placed.count(replica.id) <= replica.max_jobs
                if replica.state is ReplicaState.UNLOADING:
                    assert replica.num_jobs == 0, "a replica with jobs was closed"
                else:
                    promised_bytes += replica.bytes_per_gpu
            assert gpu.reserved_bytes == promised_bytes <= gpu.capacity_bytes

    @invariant()
    def replicas_are_in_the_book_of_each_of_their_gpus_and_serve_while_all_of_those_live(self) -> None:
        for replica in map(self._replica, self._all_replicas()):
            assert all(replica.id in self._replicas(gpu) for gpu in replica.gpus)
            # What is to be freed has somebody to free it.
            alive = {replica.leader} if replica.state is ReplicaState.UNLOADING else set(replica.gpus)
            assert self.workers.keys() >= alive

    @invariant()
    def replicas_change_as_their_table_says(self) -> None:
        states = {replica_id: self._replica(replica_id).state for replica_id in self._all_replicas()}
        for replica_id, old in self.states.items():
            new = states.get(replica_id, old)
            # Two steps may fall into one of ours.
            assert new is old or new in reachable(old), (old, new)
        self.states = states

    @invariant()
    def every_job_waits_or_has_a_place_and_a_time_by_which_somebody_looks(self) -> None:
        waiting = set(self.world.live.jobs.waiting())
        due = set(self.world.live.jobs.due(FAR_MS))
        assert waiting | due == self.jobs.keys()
        assert not waiting & due

    def _look_at_attempts(self) -> None:
        """Take over what faults have done to attempts; an owner of an earlier one is none any more."""
        for job_id, job in self.jobs.items():
            view = self.world.live.jobs.view(job_id)
            assert view is not None
            assert view.attempt in {job.attempt, job.attempt + 1}
            if view.attempt != job.attempt:
                job.attempt, job.claim = view.attempt, None

    def _replica(self, replica_id: str) -> Replica:
        order = self.world.live.fleet.replica(replica_id)
        assert order is not None
        return order.replica

    def _replicas(self, gpu: GpuId) -> list[str]:
        return self.world.live.fleet.replicas_on(gpu)

    def _all_replicas(self) -> list[str]:
        return sorted({replica_id for gpu in _GPUS for replica_id in self._replicas(gpu)})


@pytest.fixture
def machine(valkey_server: ValkeyServer) -> Iterator[type[LiveStateMachine]]:
    """The machine, tied to a server."""
    with LiveState(valkey_server.url) as live, valkey_server.client() as client:
        yield type("BoundMachine", (LiveStateMachine,), {"world": World(live, client)})


def test_memory_and_places_are_never_promised_twice(machine: type[LiveStateMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=40))
