"""Moves of one job under crashes and lost, late and repeated messages: the scripts against a small model.

At most one worker owns the job, no token is lost or repeated, the books balance, and every migration ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sllm_tasks.cluster import GpuId
from sllm_tasks.jobs import JobPhase, StartKind
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.livestate.router import Applied
from sllm_tasks.migration.records import HandOver, Migration, PrefixHash, StartAnswer
from sllm_tasks.migration.states import MIGRATION_TRANSITIONS, MigrationReason, MigrationState
from tests.integration.livestate.world import FAR_MS, World, job_spec, replica_order, token
from tests.support.valkey import ValkeyServer

_GPUS = (GpuId("node0", 0), GpuId("node1", 0), GpuId("node2", 0))
_JOB = job_spec("job_1")
_EARLY = {MigrationState.PLANNED, MigrationState.LOADING, MigrationState.CATCHING_UP}


def ids(first: int, end: int) -> tuple[int, ...]:
    return tuple(token(index).token_id for index in range(first, end))


def prefix(num_tokens: int) -> str:
    return str(PrefixHash(_JOB.prompt_ids).add(ids(0, num_tokens)))


@dataclass(slots=True)
class _Worker:
    """A process; what it believes may be out of date."""

    name: str
    #: It believes that it owns the job.
    claim: Claim | None = None
    num_tokens: int = 0


def reachable(state: MigrationState) -> set[MigrationState]:
    after = set(MIGRATION_TRANSITIONS[state])
    return after.union(*(reachable(new) for new in after))


class MigrationMachine(RuleBasedStateMachine):
    """Any step of any side may come at any time, twice, or never; any worker may die or come back."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.redis.flushall()
        self.world.open_gates()
        self.num_made = 0
        self.workers: dict[GpuId, _Worker] = {}
        self.states: dict[str, MigrationState] = {}
        # Claims of workers that were given up and do not know it.
        self.outlived: list[Claim] = []
        for gpu in _GPUS:
            self._start_worker(gpu)
        self.world.live.jobs.create(_JOB)
        for gpu in _GPUS:
            self.owner_claims(gpu)
        self.owners_decode(1)

    def _next(self, kind: str) -> str:
        self.num_made += 1
        return f"{kind}_{self.num_made}"

    def _start_worker(self, gpu: GpuId) -> None:
        if gpu in self.workers and (claim := self.workers[gpu].claim) is not None:
            self.outlived.append(claim)
        worker = self.workers[gpu] = _Worker(self._next("worker"))
        self.world.add_gpu(gpu, worker.name, replica_order(f"replica_{worker.name}", gpu=gpu, slots=2))

    def _migrations(self) -> list[Migration]:
        found = self.world.live.migrations.many(sorted(self.states))
        return [migration for migration in found if migration is not None]

    def _recent(self) -> list[Migration]:
        """The last ones: late messages are mostly about those."""
        return sorted(self._migrations(), key=lambda migration: int(migration.id.split("_")[1]))[-2:]

    @rule(gpu=st.sampled_from(_GPUS), luck=st.integers(0, 5))
    def worker_dies_and_another_starts(self, gpu: GpuId, luck: int) -> None:
        if luck == 0:
            self._start_worker(gpu)

    @precondition(lambda self: not self._owners())
    @rule()
    def router_places_the_job(self) -> None:
        view = self.world.live.jobs.view("job_1")
        assert view is not None
        for worker in self.workers.values():
            if self.world.apply("job_1", f"replica_{worker.name}", attempt=view.attempt) is Applied.OK:
                break
        for gpu in _GPUS:
            self.owner_claims(gpu)

    @rule(gpu=st.sampled_from(_GPUS))
    def owner_claims(self, gpu: GpuId) -> None:
        live, worker = self.world.live, self.workers[gpu]
        view = live.jobs.view("job_1")
        assert view is not None
        claim = live.jobs.claim("job_1", view.attempt, gpu, worker.name, FAR_MS)
        if isinstance(claim, Claim):
            worker.claim, worker.num_tokens = claim, len(live.jobs.tokens("job_1"))
            live.jobs.set_phase(claim, JobPhase.PREFILL)

    def _owners(self) -> list[_Worker]:
        """Those that believe to own the job."""
        return [worker for worker in self.workers.values() if worker.claim is not None]

    @precondition(lambda self: self._owners())
    @rule(count=st.integers(1, 3))
    def owners_decode(self, count: int) -> None:
        for worker in self._owners():
            assert worker.claim is not None
            indexes = range(worker.num_tokens, worker.num_tokens + count)
            if self.world.append(worker.claim, *indexes) == "stale":
                worker.claim = None
            else:
                worker.num_tokens += count

    @rule(gpu=st.sampled_from(_GPUS))
    def somebody_starts_a_move(self, gpu: GpuId) -> None:
        migration_id = self._next("migration")
        replica_id = f"replica_{self.workers[gpu].name}"
        answer = self.world.live.migrations.start(
            migration_id, "job_1", reason=MigrationReason.OPERATOR, target_replica=replica_id
        )
        if answer is StartAnswer.OK:
            self.states[migration_id] = MigrationState.PLANNED

    @rule(num_steps=st.integers(1, 5), data=st.data())
    def the_protocol_goes_on(self, num_steps: int, data: st.DataObject) -> None:
        """Steps as source and target take them when nothing goes wrong."""
        for _ in range(num_steps):
            recent = self._recent()
            if not recent or recent[-1].state.is_terminal:
                return
            migration = recent[-1]
            if migration.state is MigrationState.HANDING_OVER:
                self._take_over(migration)
                self.owners_decode(1)
            elif not migration.is_settled:
                self._read(migration, migration.round_sent)
            elif data.draw(st.booleans()):
                self._send(migration, 1)
            else:
                self._hand_over(migration, 1)

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def a_message_to_the_target_comes_late(self, data: st.DataObject) -> None:
        migration = data.draw(st.sampled_from(self._recent()))
        self._read(migration, data.draw(st.integers(0, migration.round_sent)))

    @precondition(lambda self: self.states)
    @rule(data=st.data(), rounds_ahead=st.integers(0, 2))
    def a_round_is_sent_at_any_time(self, data: st.DataObject, rounds_ahead: int) -> None:
        self._send(data.draw(st.sampled_from(self._recent())), rounds_ahead)

    @precondition(lambda self: self.states)
    @rule(data=st.data(), repeats=st.integers(1, 2))
    def a_source_hands_over_at_any_time(self, data: st.DataObject, repeats: int) -> None:
        self._hand_over(data.draw(st.sampled_from(self._recent())), repeats)

    def _read(self, migration: Migration, round_: int) -> None:
        worker, migrations = self.workers[migration.target_gpu], self.world.live.migrations
        have = len(migrations.tokens(migration.id, 0))
        migrations.acknowledge(
            migration.id, worker.name, round_=round_, num_tokens=have, prefix_hash=prefix(have), seconds=0.1
        )

    def _send(self, migration: Migration, rounds_ahead: int) -> None:
        for worker in self._owners():
            if worker.claim is not None and worker.num_tokens >= migration.num_sent:
                self.world.live.migrations.send_round(
                    migration.id,
                    worker.claim,
                    migration.round_sent + rounds_ahead,
                    migration.num_sent,
                    ids(migration.num_sent, worker.num_tokens),
                )

    def _hand_over(self, migration: Migration, repeats: int) -> None:
        for worker in self._owners():
            if worker.claim is None or worker.num_tokens < migration.num_acked:
                continue
            answers = [
                self.world.live.migrations.hand_over(
                    migration.id,
                    worker.claim,
                    num_acked=migration.num_acked,
                    prefix_hash=prefix(migration.num_acked),
                    token_ids=ids(migration.num_acked, worker.num_tokens),
                )
                for _ in range(repeats)
            ]
            assert len(set(answers)) == 1
            if answers[0] is not HandOver.REFUSED:
                worker.claim = None

    def _take_over(self, migration: Migration) -> None:
        worker = self.workers[migration.target_gpu]
        sent = self.world.live.migrations.tokens(migration.id, 0)
        assert sent == ids(0, migration.num_sent)
        worker.claim = Claim(
            spec=_JOB,
            attempt=migration.attempt,
            epoch=migration.new_epoch,
            replica_id=migration.target_replica,
            start_kind=StartKind.MIGRATED,
        )
        worker.num_tokens = len(sent)

    @precondition(lambda self: self.states)
    @rule(
        data=st.data(), state=st.sampled_from([MigrationState.ABORTED, MigrationState.FAILED]), luck=st.integers(0, 5)
    )
    def somebody_ends_a_move(self, data: st.DataObject, state: MigrationState, luck: int) -> None:
        if luck == 0:
            self.world.live.migrations.end(data.draw(st.sampled_from(sorted(self.states))), state, "on a whim")

    @invariant()
    def at_most_one_worker_can_write(self) -> None:
        attempt, epoch, owner = self.world.redis.hmget("sllm:job:job_1", "attempt", "epoch", "owner")
        current = (int(attempt or 0), int(epoch or 0), bool(owner))
        claims = [worker.claim for worker in self.workers.values() if worker.claim is not None]
        assert [(claim.attempt, claim.epoch, True) for claim in claims].count(current) <= 1
        assert current not in [(claim.attempt, claim.epoch, True) for claim in self.outlived]

    @invariant()
    def every_token_is_there_once_and_in_order(self) -> None:
        found = [record.index for record in self.world.live.jobs.tokens("job_1")]
        assert found == list(range(len(found)))

    @invariant()
    def slots_are_those_of_the_job_and_of_the_target(self) -> None:
        view = self.world.live.jobs.view("job_1")
        assert view is not None
        wanted = {f"replica_{worker.name}": 0 for worker in self.workers.values()}
        if view.replica_id:
            wanted[view.replica_id] += 1
        for migration in self._migrations():
            if migration.state in _EARLY:
                wanted[migration.target_replica] += 1
        assert {replica_id: self.world.num_jobs(replica_id) for replica_id in wanted} == wanted

    @invariant()
    def states_follow_the_table(self) -> None:
        for migration in self._migrations():
            before = self.states[migration.id]
            assert migration.state is before or migration.state in reachable(before)
            self.states[migration.id] = migration.state
        active = {id_ for id_, state in self.states.items() if not state.is_terminal}
        assert set(self.world.live.migrations.active()) == active
        assert len(active) <= 1

    def teardown(self) -> None:
        """Whatever has happened, a dead cluster leaves no migration behind."""
        for gpu in self.workers:
            self.world.silence(gpu)
            self.world.live.fleet.reap_gpu(gpu)
        assert self.world.live.migrations.active() == []


@pytest.fixture
def machine(valkey_server: ValkeyServer) -> Iterator[type[MigrationMachine]]:
    """The machine, tied to a server."""
    with LiveState(valkey_server.url) as live, valkey_server.client() as client:
        yield type("BoundMachine", (MigrationMachine,), {"world": World(live, client)})


def test_a_job_that_moves_has_one_owner_and_every_token_once(machine: type[MigrationMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=50))
