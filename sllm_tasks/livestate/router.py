"""The router's room: its lease, the change feed it follows, and its decisions carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis import Redis

from sllm_tasks.cluster import GpuId, Hold, ModelInfo
from sllm_tasks.jobs import JobStatus, StartKind
from sllm_tasks.livestate.connection import PREFIX, entries, number, text, translated
from sllm_tasks.livestate.jobs import CLAIM_MS, KICK_LIFE_MS
from sllm_tasks.livestate.queues import WaitingRoom, ask_for_room, room_from
from sllm_tasks.livestate.scripts import Scripts

#: A silent leader is replaced after this time; it renews every second.
LEADER_LIFE_MS = 3_000

_FEED = f"{PREFIX}feed"
#: One more than it keeps.
_FEED_ENTRIES = 20_001

_PLACED_FIELDS = ("replica", "prompt_tokens", "max_tokens", "num_tokens", "first_token_ms", "status", "migration")


class Applied(StrEnum):
    """What became of a decision."""

    OK = "ok"
    #: Another router leads.
    STALE_ROUTER = "stale_router"
    #: The job has ended, or has a place already.
    GONE = "gone"
    #: No room on that replica or gpu any more.
    FULL = "full"
    #: That gpu or replica is dead or draining.
    DEAD = "dead"
    #: A victim got a job in the meantime.
    BUSY = "busy"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReplica:
    """A replica to be loaded, after its victims are freed."""

    model: ModelInfo
    gpus: tuple[GpuId, ...]
    victims: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedJob:
    """A job that has its place, as far as it tells when that will be free."""

    job_id: str
    replica_id: str
    prompt_tokens: int
    max_tokens: int
    num_tokens: int
    first_token_ms: int | None
    #: Whether it decodes.
    is_running: bool
    #: The move of it that is under way, empty without one.
    migration_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Something changed: read it again."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What has changed, each once, in the order of its first change; the position is where to go on from."""

    position: str
    changes: tuple[Change, ...]


class RouterStore:
    """The router's room of the live state."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    def lead(self, who: str, epoch: int = 0) -> int | None:
        """Take or keep the lease: the fencing epoch that goes with every decision, None while another leads.

        It is the `epoch` that was led with before, unless another has led since or the live state was lost.
        """
        with translated():
            current = self._scripts["lead_router"](args=[who, LEADER_LIFE_MS, epoch])
        return int(current) if current else None

    def leader(self) -> str:
        """Who leads, empty when nobody does."""
        with translated():
            return text(self._redis.get(f"{PREFIX}router:leader"))

    def apply(  # noqa: PLR0913 - all by keyword, and each goes into the script as it is
        self,
        *,
        epoch: int,
        job_id: str,
        attempt: int,
        replica_id: str,
        start_kind: StartKind,
        decision_id: str,
        suspect: bool = False,
        new: NewReplica | None = None,
    ) -> Applied:
        """Reserve a job's place: on a replica, or on one that is to be loaded (`new`); one suspect per gpu."""
        args: list[str | int] = [
            epoch,
            job_id,
            attempt,
            CLAIM_MS,
            replica_id,
            start_kind.value,
            decision_id,
            ",".join(new.victims) if new else "",
            "suspect" if suspect else "",
        ]
        args += _shape_args(new) if new else []
        with translated():
            return Applied(text(self._scripts["assign_job"](args=args)))

    def load(self, *, epoch: int, replica_id: str, start_kind: StartKind, new: NewReplica) -> Applied:
        """Make a replica that no job waits for yet; its worker has to be told."""
        args: list[str | int] = [epoch, replica_id, start_kind.value, ",".join(new.victims), *_shape_args(new)]
        with translated():
            return Applied(text(self._scripts["load_replica"](args=args)))

    def drain(self, *, epoch: int, replica_id: str) -> bool:
        """Let a ready replica take no more jobs; False when it is not ready any more, or another router leads."""
        with translated():
            return bool(self._scripts["drain_replica"](args=[epoch, replica_id]) == b"ok")

    def open(self, *, epoch: int, replica_id: str) -> bool:
        """Let a draining replica take jobs again; False when it does not drain any more, or another router leads."""
        with translated():
            return bool(self._scripts["open_replica"](args=[epoch, replica_id]) == b"ok")

    def hold(self, *, epoch: int, job_id: str, attempt: int, hold: Hold, replica_ids: Sequence[str]) -> Applied:
        """Let replicas take no more jobs, and keep the memory of their gpus for a job that waits."""
        gpus = ",".join(str(gpu) for gpu in hold.gpus)
        args: list[str | int] = [epoch, job_id, attempt, hold.until_ms, gpus, ",".join(replica_ids)]
        with translated():
            return Applied(text(self._scripts["hold_gpus"](args=args)))

    def placed_jobs(self, leaders: Sequence[GpuId]) -> list[PlacedJob]:
        """Jobs of the replicas that these gpus lead."""
        with translated():
            sets = self._redis.pipeline(transaction=False)
            for leader in leaders:
                sets.smembers(f"{PREFIX}gpu:{leader}:jobs")
            job_ids = sorted({text(job_id) for members in sets.execute() for job_id in members})
            records = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                records.hmget(f"{PREFIX}job:{job_id}", _PLACED_FIELDS)
            answers = records.execute()
        return [
            PlacedJob(
                job_id=job_id,
                replica_id=text(replica_id),
                prompt_tokens=number(prompt_tokens) or 0,
                max_tokens=number(max_tokens) or 0,
                num_tokens=number(num_tokens) or 0,
                first_token_ms=number(first_token_ms),
                is_running=text(status) == JobStatus.RUNNING,
                migration_id=text(migration),
            )
            for job_id, (replica_id, prompt_tokens, max_tokens, num_tokens, first_token_ms, status, migration) in zip(
                job_ids, answers, strict=True
            )
        ]

    def note_wait(self, job_id: str, attempt: int, reason: str) -> None:
        """Tell readers of a job why it has no place yet; ignored when it has one by now."""
        with translated():
            self._scripts["note_wait"](args=[job_id, attempt, reason])

    def kick(self) -> bool:
        """Whether the caller should send the router a trigger; False while one is on its way."""
        with translated():
            return bool(self._redis.set(f"{PREFIX}router:kicked", 1, nx=True, px=KICK_LIFE_MS))

    def begin_pass(self, after: str) -> tuple[Feed | None, WaitingRoom]:
        """Begin a pass: what changes from now on needs another trigger.

        Comes with what has changed since a position, as `changes` tells it (None also without a position), and with
        the waiting room, in one exchange: a job waits for them.
        """
        with translated():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.delete(f"{PREFIX}router:kicked")
            ask_for_room(pipeline)
            if after:
                pipeline.xrange(_FEED, min=after, count=_FEED_ENTRIES)
            _, *answers = pipeline.execute()
        feed = _feed_from(after, answers.pop()) if after else None
        return feed, room_from(answers)

    def feed_end(self) -> str:
        """Position of the newest change."""
        with translated():
            newest = entries(self._redis.xrevrange(_FEED, count=1))
        return newest[0][0] if newest else "0"

    def changes(self, after: str) -> Feed | None:
        """What has changed after a position; None when some of it was lost and all must be read again."""
        with translated():
            return _feed_from(after, self._redis.xrange(_FEED, min=after, count=_FEED_ENTRIES))


def _feed_from(after: str, answer: Any) -> Feed | None:
    found = entries(answer)
    if after != "0" and (not found or found[0][0] != after):
        return None
    fresh = found if after == "0" else found[1:]
    seen = dict.fromkeys(Change(kind=text(f[b"kind"]), id=text(f[b"id"])) for _, f in fresh)
    return Feed(position=found[-1][0] if found else after, changes=tuple(seen))


def _shape_args(new: NewReplica) -> list[str | int]:
    model, gpus = new.model, ",".join(str(gpu) for gpu in new.gpus)
    return [model.name, model.checkpoint, gpus, model.bytes_per_gpu, model.max_jobs, model.engine, model.context]
