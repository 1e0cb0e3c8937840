"""The migrations' room of the live state: start, rounds, hand-over, end, and the news for both sides."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

from redis import Redis

from sllm_tasks.cluster import GpuId
from sllm_tasks.estimators.moves import MoveTime
from sllm_tasks.livestate import codec
from sllm_tasks.livestate.connection import PREFIX, number, text, translated
from sllm_tasks.livestate.jobs import LEASE_MS, Claim
from sllm_tasks.livestate.router import NewReplica
from sllm_tasks.livestate.scripts import Scripts
from sllm_tasks.migration.records import HandOver, Migration, Notice, NoticeKind, StartAnswer
from sllm_tasks.migration.states import MigrationReason, MigrationState

logger = logging.getLogger(__name__)

#: A migration that is not over after this time is given up: it loads a checkpoint at most once and reads a context.
MIGRATION_LIFE_MS = 300_000

_FIELDS = (
    "job", "state", "reason", "attempt", "epoch", "source_replica", "source_gpu", "target_replica", "target_gpu",
    "round_sent", "round_acked", "num_sent", "num_acked", "acked_hash", "target_rate", "new_epoch", "created_ms",
    "deadline_ms", "num_bytes", "pause_ms", "error", "predicted_s", "predicted_pause_s",
)  # fmt: skip
_ID_BYTES = 4
#: Of the SHA-1 in front of each message, in hexadecimal: what the server's scripts can compute.
_DIGEST_BYTES = 40


class MigrationStore:
    """Whatever matters is decided in the scripts; every write carries what shows that its writer may."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    def start(  # noqa: PLR0913 - all by keyword, and each goes into the script as it is
        self,
        migration_id: str,
        job_id: str,
        *,
        reason: MigrationReason,
        target_replica: str,
        new: NewReplica | None = None,
        expected: MoveTime | None = None,
        life_ms: int = MIGRATION_LIFE_MS,
    ) -> StartAnswer:
        """Reserve room on a replica, or on one that is to be loaded (`new`), and tell both sides."""
        predicted = [expected.whole.seconds, expected.pause_s] if expected else ["", ""]
        victims = ",".join(new.victims) if new else ""
        args: list[str | int | float] = [migration_id, job_id, reason, life_ms, *predicted, target_replica, victims]
        if new:
            gpus, model = ",".join(str(gpu) for gpu in new.gpus), new.model
            args += [
                model.name, model.checkpoint, gpus, model.bytes_per_gpu, model.max_jobs, model.engine, model.context,
            ]  # fmt: skip
        with translated():
            return StartAnswer(text(self._scripts["start_migration"](args=args)))

    def get(self, migration_id: str) -> Migration | None:
        """One migration, None when nobody remembers it."""
        return self.many([migration_id])[0]

    def many(self, migration_ids: Sequence[str]) -> list[Migration | None]:
        """Several at once, in the order asked for."""
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for migration_id in migration_ids:
                pipeline.hmget(f"{PREFIX}migration:{migration_id}", _FIELDS)
            found = pipeline.execute()
        return [_migration(id_, values) for id_, values in zip(migration_ids, found, strict=True)]

    def active(self) -> list[str]:
        """Ids of those that are not over, the one that is given up first at the beginning."""
        with translated():
            return [text(id_) for id_ in self._redis.zrange(f"{PREFIX}migrations", 0, -1)]

    def overdue(self, now_ms: int) -> list[str]:
        """Ids of those whose time is over."""
        with translated():
            found = self._redis.zrangebyscore(f"{PREFIX}migrations", "-inf", now_ms)
        return [text(id_) for id_ in found]

    def of_gpu(self, gpu: GpuId) -> list[str]:
        """Ids of those that leave a gpu or arrive there."""
        with translated():
            return sorted(text(id_) for id_ in self._redis.smembers(f"{PREFIX}gpu:{gpu}:migrations"))

    def send_round(self, migration_id: str, claim: Claim, round_: int, first: int, token_ids: Sequence[int]) -> bool:
        """Send what the target has not; False when the migration is over or the job is not ours any more."""
        args: list[Any] = [migration_id, claim.attempt, claim.epoch, round_, first, codec.pack_ids(token_ids)]
        with translated():
            return bool(self._scripts["send_round"](args=args) == b"ok")

    def tokens(self, migration_id: str, first: int) -> tuple[int, ...]:
        """All tokens that were sent, from an index on."""
        with translated():
            packed: Any = self._redis.getrange(f"{PREFIX}migration:{migration_id}:tokens", first * _ID_BYTES, -1)
        return codec.unpack_ids(packed)

    def acknowledge(
        self, migration_id: str, worker_id: str, *, round_: int, num_tokens: int, prefix_hash: str, seconds: float
    ) -> bool:
        """Say that the target has read a round; round 0 says that it is loaded. False when the migration is over."""
        args: list[Any] = [migration_id, worker_id, round_, num_tokens, prefix_hash, seconds]
        with translated():
            return bool(self._scripts["ack_round"](args=args) == b"ok")

    def hand_over(
        self, migration_id: str, claim: Claim, *, num_acked: int, prefix_hash: str, token_ids: Sequence[int]
    ) -> HandOver:
        """Make the target the job's owner; `token_ids` are those behind the acknowledged ones. May be repeated."""
        args: list[Any] = [
            migration_id, claim.attempt, claim.epoch, num_acked, prefix_hash, LEASE_MS, codec.pack_ids(token_ids),
        ]  # fmt: skip
        with translated():
            return HandOver(text(self._scripts["hand_over"](args=args)))

    def end(self, migration_id: str, state: MigrationState, why: str = "", *, only_if_due: bool = False) -> bool:
        """End one that has not moved its job yet; False when there is nothing to end."""
        args: list[Any] = [migration_id, state, why, "due" if only_if_due else ""]
        with translated():
            return bool(self._scripts["end_migration"](args=args))

    def listen(self, gpu: GpuId) -> MigrationEar:
        """Subscribe to what concerns one gpu."""
        subscription: Any = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        with translated():
            subscription.subscribe(f"{PREFIX}migrations:gpu:{gpu}")
        return MigrationEar(subscription)


class MigrationEar:
    """Pub/sub that saves its listener a look; whoever misses a message finds the same in the state."""

    def __init__(self, subscription: Any) -> None:  # redis-py's PubSub has untyped methods
        self._subscription = subscription

    def wait(self, timeout_s: float) -> Notice | None:
        """The next notice; None after the time-out, and for one that was damaged on its way: it counts as lost."""
        with translated():
            message = self._subscription.get_message(timeout=timeout_s)
        return _notice(message["data"]) if message else None

    def close(self) -> None:
        """Unsubscribe."""
        self._subscription.close()


def _notice(message: bytes) -> Notice | None:
    digest, body = message[:_DIGEST_BYTES], message[_DIGEST_BYTES:]
    if hashlib.sha1(body, usedforsecurity=False).hexdigest().encode() != digest:
        logger.warning("a message about a migration was damaged")
        return None
    head, _, ids = body.partition(b"\n")
    record = json.loads(head)
    return Notice(
        migration_id=record["id"],
        kind=NoticeKind(record["kind"]),
        first=record["first"],
        token_ids=codec.unpack_ids(ids),
    )


def _migration(migration_id: str, values: Sequence[bytes | None]) -> Migration | None:
    field = dict(zip(_FIELDS, values, strict=True))
    if field["state"] is None:
        return None
    count = {name: number(field[name]) or 0 for name in _FIELDS if name.startswith(("num_", "round_"))}
    return Migration(
        id=migration_id,
        job_id=text(field["job"]),
        state=MigrationState(text(field["state"])),
        reason=MigrationReason(text(field["reason"])),
        attempt=number(field["attempt"]) or 0,
        epoch=number(field["epoch"]) or 0,
        source_replica=text(field["source_replica"]),
        source_gpu=GpuId.parse(text(field["source_gpu"])),
        target_replica=text(field["target_replica"]),
        target_gpu=GpuId.parse(text(field["target_gpu"])),
        acked_hash=text(field["acked_hash"]),
        target_rate=float(text(field["target_rate"])),
        new_epoch=number(field["new_epoch"]) or 0,
        created_ms=number(field["created_ms"]) or 0,
        deadline_ms=number(field["deadline_ms"]) or 0,
        pause_ms=number(field["pause_ms"]),
        error=text(field["error"]),
        predicted_s=_seconds(field["predicted_s"]),
        predicted_pause_s=_seconds(field["predicted_pause_s"]),
        **count,
    )


def _seconds(value: bytes | None) -> float | None:
    return float(value) if value else None
