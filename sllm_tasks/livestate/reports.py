"""What workers, router and node agents report to the ledger: a stream that control empties after its commit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from sllm_tasks.livestate.connection import PREFIX, entries, text, translated

_KEY = f"{PREFIX}reports"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One fact for the ledger."""

    id: str
    kind: str
    data: dict[str, Any]


class ReportStore:
    """Reports stay until `remove`, so a control that dies between reading and committing loses none."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, kind: str, data: dict[str, Any]) -> None:
        """Report a fact."""
        with translated():
            self._redis.xadd(_KEY, {"kind": kind, "data": json.dumps(data)})

    def read(self, limit: int, block_ms: int) -> list[Report]:
        """The oldest reports; waits up to `block_ms` for the first."""
        with translated():
            answer = self._redis.xread({_KEY: "0"}, count=limit, block=block_ms)
        return [
            Report(id=entry_id, kind=text(fields[b"kind"]), data=json.loads(fields[b"data"]))
            for entry_id, fields in entries(answer)
        ]

    def remove(self, reports: Sequence[Report]) -> None:
        """Forget reports that the ledger has committed."""
        if reports:
            with translated():
                self._redis.xdel(_KEY, *(report.id for report in reports))
