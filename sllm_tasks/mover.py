"""Start moves of running jobs: the one way in for operators, for drains and for the router."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from sllm_tasks.cluster import GpuId, ModelInfo, Replica
from sllm_tasks.errors import ConflictError, NotFoundError
from sllm_tasks.estimators.moves import MoveTime
from sllm_tasks.forecasts import Forecasts
from sllm_tasks.ids import new_id
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.router import NewReplica
from sllm_tasks.migration.records import StartAnswer
from sllm_tasks.migration.states import MigrationReason
from sllm_tasks.migration.targets import Place, Surroundings, find_target
from sllm_tasks.policy.decision import Move

logger = logging.getLogger(__name__)

#: The world may change between the look and the reservation.
_MAX_TRIES = 3

_WHY_NOT = {
    StartAnswer.NOT_RUNNING: "it is not running",
    StartAnswer.MOVING: "it is being moved already",
    StartAnswer.SUSPECT: "its workers have died too often",
    StartAnswer.SAME: "it is there already",
    StartAnswer.UNLIKE: "that replica is of another checkpoint or engine",
}


class Mover:
    """Safe to use from many threads; source and target do the rest."""

    def __init__(self, live: LiveState, forecasts: Forecasts | None = None) -> None:
        """Without `forecasts` nothing is predicted but what a decision has priced."""
        self._live = live
        self._forecasts = forecasts

    def move(self, job_id: str, reason: MigrationReason, to: GpuId | None = None) -> str:
        """Begin to move a running job, to a replica led by `to` if that is given; returns the migration's id.

        Raises NotFoundError for a job that is not alive, ConflictError when it cannot move, and UnavailableError.
        """
        answer = StartAnswer.FULL
        for _ in range(_MAX_TRIES):
            source = self._replica_of(job_id)
            around = self._look_around()
            place = find_target(source, around, to)
            if place is None:
                raise ConflictError(f"job {job_id} does not move: {_why_nowhere(source, around, to)}")
            migration_id = new_id("migration")
            expected = self._forecasts.of_move(job_id, source, place, around) if self._forecasts else None
            answer = self._live.migrations.start(
                migration_id,
                job_id,
                reason=reason,
                target_replica=place.replica_id or new_id("replica"),
                new=_new_replica(source, place),
                expected=expected,
            )
            if answer is StartAnswer.OK:
                logger.info("job %s moves from %s to %s (%s)", job_id, source.leader, place.gpus[0], reason)
                return migration_id
            if answer in _WHY_NOT:
                break
        raise ConflictError(f"job {job_id} does not move: {_WHY_NOT.get(answer, 'its target was taken meanwhile')}")

    def carry_out(self, moves: Iterable[Move], reason: MigrationReason) -> int:
        """Begin the moves of a decision; returns how many. Jobs that cannot move any more stay where they are."""
        # Jobs of one replica that go to the same gpus share the replica that is loaded there.
        made: dict[tuple[str, tuple[GpuId, ...]], str] = {}
        num_begun = 0
        for move in moves:
            key = (move.from_replica, move.gpus)
            source = self._live.fleet.replica(move.from_replica)
            if source is None:
                continue
            place = Place(gpus=move.gpus, replica_id=move.to_replica or made.get(key), victims=move.victims)
            target = place.replica_id or new_id("replica")
            answer = self._live.migrations.start(
                new_id("migration"),
                move.job_id,
                reason=reason,
                target_replica=target,
                new=_new_replica(source.replica, place),
                expected=MoveTime(whole=move.arrives, pause_s=move.pause_s),
            )
            if answer is StartAnswer.OK:
                made[key] = target
                num_begun += 1
            logger.info("job %s is to leave %s (%s): %s", move.job_id, source.replica.leader, reason, answer)
        return num_begun

    def _replica_of(self, job_id: str) -> Replica:
        view = self._live.jobs.view(job_id)
        if view is None:
            raise NotFoundError(f"there is no active job {job_id}")
        order = self._live.fleet.replica(view.replica_id) if view.replica_id else None
        if order is None:
            raise ConflictError(f"job {job_id} does not move: {_WHY_NOT[StartAnswer.NOT_RUNNING]}")
        return order.replica

    def _look_around(self) -> Surroundings:
        fleet = self._live.fleet
        gpus = fleet.gpus()
        ids = sorted({replica_id for gpu in gpus for replica_id in fleet.replicas_on(gpu.id)})
        replicas = tuple(order.replica for order in fleet.replicas(ids) if order is not None)
        return Surroundings(gpus=gpus, replicas=replicas, nodes=fleet.nodes(self._live.now_ms()))


def _why_nowhere(source: Replica, around: Surroundings, to: GpuId | None) -> str:
    known = sorted(gpu.id for gpu in around.gpus)
    if to is None:
        return "no other gpu has room for it"
    if to not in known:
        return f"there is no gpu {to} that is up; there are {', '.join(map(str, known)) or 'none'}"
    if to == source.leader:
        return _WHY_NOT[StartAnswer.SAME]
    if not around.up((to,)):
        return f"gpu {to} takes no new work"
    return f"gpu {to} has no room for it, or its node has no copy of checkpoint {source.checkpoint[:12]}"


def _new_replica(source: Replica, place: Place) -> NewReplica | None:
    """What is to be loaded for a job of `source`, None when it is there.

    It is built as the source was, whose model may have been deployed again since.
    """
    if place.replica_id is not None:
        return None
    model = ModelInfo(
        name=source.model,
        checkpoint=source.checkpoint,
        num_gpus=len(source.gpus),
        bytes_per_gpu=source.bytes_per_gpu,
        max_jobs=source.max_jobs,
        context=source.context,
        keep_alive_s=0,
        engine=source.engine,
    )
    return NewReplica(model=model, gpus=place.gpus, victims=place.victims)
