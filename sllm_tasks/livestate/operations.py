"""Live records of operations: what a node agent is to do, and how far it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from redis import Redis

from sllm_tasks.livestate.connection import PREFIX, number, text, translated
from sllm_tasks.livestate.jobs import Verdict
from sllm_tasks.livestate.scripts import Scripts

OPERATION_LEASE_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOperation:
    """What readers see of a running operation; `result` is there once it has ended."""

    attempt: int
    owner: str
    lease_ms: int
    progress: dict[str, Any]
    result: dict[str, Any] | None


class OperationStore:
    """The operations' room of the live state."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    def create(self, operation_id: str, attempt: int, record: dict[str, Any]) -> None:
        """Make the record that a node agent reads; a new attempt replaces the one before."""
        key = f"{PREFIX}operation:{operation_id}"
        with translated():
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.delete(key)
            pipeline.hset(key, mapping={"attempt": attempt, "record": json.dumps(record)})
            pipeline.execute()

    def claim(self, operation_id: str, attempt: int, owner: str, expires_ms: int) -> dict[str, Any] | str:
        """Take an operation: its record, or the reason why not."""
        with translated():
            answer = self._scripts["claim_operation"](
                args=[operation_id, attempt, owner, OPERATION_LEASE_MS, expires_ms]
            )
        return json.loads(answer[1]) if answer[0] == b"ok" else text(answer[0])

    def beat(self, operation_id: str, attempt: int, owner: str, progress: dict[str, Any]) -> Verdict:
        """Go on with an operation."""
        return self._beat(operation_id, attempt, owner, progress, "")

    def finish(self, operation_id: str, attempt: int, owner: str, result: dict[str, Any]) -> Verdict:
        """Report an operation's end; control commits it."""
        return self._beat(operation_id, attempt, owner, {}, json.dumps(result))

    def revoke(self, operation_id: str) -> None:
        """Take an operation from whoever runs it: the next heartbeat finds no record, and the work stops."""
        with translated():
            self._redis.delete(f"{PREFIX}operation:{operation_id}")

    def view(self, operation_id: str) -> LiveOperation | None:
        """The live record, None when there is none."""
        with translated():
            attempt, owner, lease, progress, result = self._redis.hmget(
                f"{PREFIX}operation:{operation_id}", "attempt", "owner", "lease_ms", "progress", "result"
            )
        if attempt is None:
            return None
        return LiveOperation(
            attempt=int(attempt),
            owner=text(owner),
            lease_ms=number(lease) or 0,
            progress=json.loads(progress) if progress else {},
            result=json.loads(result) if result else None,
        )

    def _beat(self, operation_id: str, attempt: int, owner: str, progress: dict[str, Any], result: str) -> Verdict:
        with translated():
            answer = self._scripts["beat_operation"](
                args=[operation_id, attempt, owner, OPERATION_LEASE_MS, json.dumps(progress), result]
            )
        return Verdict(text(answer))
