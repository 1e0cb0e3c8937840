"""Live migrations: the target reads what the source has while that goes on, round after round, then takes over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sllm_tasks.cluster import GpuId, ReplicaState
from sllm_tasks.estimators.facts import MigrationFact
from sllm_tasks.policy.decision import Move
from sllm_tasks.simulation.clock import Clock
from sllm_tasks.simulation.decoding import Decoding
from sllm_tasks.simulation.fleet import Fleet, SimJob, SimReplica

#: Gap in tokens at which the source stops, and rounds at most.
_SMALL_GAP = 20.0
_MAX_ROUNDS = 4
#: One message there and one back, and the compare-and-set between them.
_HAND_OVER_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """How long a migration takes, and for how much of that nobody produces tokens."""

    total_s: float
    pause_s: float


def rounds(num_tokens: float, *, step_s: float, prefill_s: float) -> Rounds:
    """Play the rounds through: tokens that come while others are read are the next round's."""
    total_s, gap = 0.0, num_tokens
    for _ in range(_MAX_ROUNDS):
        if gap <= _SMALL_GAP:
            break
        round_s = gap * prefill_s
        total_s += round_s
        gap = round_s / step_s
    pause_s = gap * prefill_s + _HAND_OVER_S
    return Rounds(total_s=total_s + pause_s, pause_s=pause_s)


@dataclass(slots=True, kw_only=True, eq=False)
class _Migration:
    job: SimJob
    source: SimReplica
    target: SimReplica
    begun_s: float = 0.0


class Moving:
    """All migrations of a simulation. `load` makes a replica and loads it, `moved` hears of each job on a new one."""

    def __init__(
        self,
        clock: Clock,
        fleet: Fleet,
        decoding: Decoding,
        *,
        load: Callable[[SimReplica, Move], SimReplica],
        moved: Callable[[SimJob, SimReplica], None],
        learn: Callable[[MigrationFact], None],
    ) -> None:
        self._clock = clock
        self._fleet = fleet
        self._decoding = decoding
        self._load = load
        self._moved = moved
        self._learn = learn
        self._waiting: dict[str, list[_Migration]] = {}

    def begin(self, moves: tuple[Move, ...]) -> None:
        """Start to move jobs; those that are gone in the meantime are not moved."""
        new: dict[tuple[str, tuple[GpuId, ...]], SimReplica] = {}
        for move in moves:
            source = self._fleet.replicas[move.from_replica]
            if move.to_replica is not None:
                target = self._fleet.replicas[move.to_replica]
            else:
                key = (move.from_replica, move.gpus)
                target = new.get(key) or self._load(source, move)
                new[key] = target
            target.num_promised += 1
            source.is_leaving = True
            migration = _Migration(job=source.jobs[move.job_id], source=source, target=target)
            if target.state is ReplicaState.READY:
                self._begin_rounds(migration)
            else:
                self._waiting.setdefault(target.id, []).append(migration)

    def target_ready(self, target: SimReplica) -> None:
        """A replica was loaded."""
        for migration in self._waiting.pop(target.id, ()):
            self._begin_rounds(migration)

    def target_gone(self, target: SimReplica) -> None:
        """A replica was lost before it was ready: its jobs stay where they are."""
        self._waiting.pop(target.id, None)

    def _begin_rounds(self, migration: _Migration) -> None:
        job, source = migration.job, migration.source
        if not self._is_on(job, source):
            migration.target.num_promised -= 1
            return
        migration.begun_s = self._clock.now_s
        step_s = self._decoding.step_s(source)
        prefill_s = source.model.prefill_ratio * self._decoding.step_s(migration.target)
        played = rounds(_tokens(job, self._decoding.work_done(job)), step_s=step_s, prefill_s=prefill_s)
        self._clock.after(played.total_s - played.pause_s, lambda: self._stop_source(migration, played.pause_s))

    def _stop_source(self, migration: _Migration, pause_s: float) -> None:
        job, source, target = migration.job, migration.source, migration.target
        if target.id not in self._fleet.replicas:
            return
        if not self._is_on(job, source):
            # It ended before its turn came: the migration was not needed.
            target.num_promised -= 1
            return
        self._decoding.stop(job, source)
        job.stopped_s = self._clock.now_s
        self._clock.after(pause_s, lambda: self._hand_over(migration))

    def _hand_over(self, migration: _Migration) -> None:
        job, source, target = migration.job, migration.source, migration.target
        if not self._is_on(job, source):
            # Its source died in the pause, so it waits for another place.
            target.num_promised -= 1
            return
        if target.id not in self._fleet.replicas:
            # The target died: the source goes on.
            self._moved(job, source)
            return
        target.num_promised -= 1
        self._moved(job, target)
        fact = MigrationFact(
            model=job.request.model,
            batch=self._decoding.batch_of(target),
            num_tokens=round(_tokens(job, job.work_done)),
            seconds=self._clock.now_s - migration.begun_s,
        )
        self._learn(fact)

    def _is_on(self, job: SimJob, source: SimReplica) -> bool:
        return job.replica is source and source.id in self._fleet.replicas and job.ended_s is None


def _tokens(job: SimJob, work_done: float) -> float:
    """Prompt and output so far."""
    return job.request.input_tokens + max(0.0, work_done - job.prefill_work)
