"""How far a placement is: the operation that works on it, or why the last one failed and when the next one comes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile

from sqlalchemy import select
from sqlalchemy.orm import Session

from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import JobError
from sllm_tasks.ledger.states import ENDED_OPERATION_STATUSES, OperationStatus
from sllm_tasks.ledger.tables import OperationRow, PlacementRow
from sllm_tasks.operations import OperationKind

_KINDS = (OperationKind.FETCH, OperationKind.PREFETCH, OperationKind.EVICT, OperationKind.DROP_CHECKPOINT)
#: After n failures in a row the next attempt waits 5 s · 3ⁿ⁻¹, and ten minutes at most.
_FIRST_PAUSE = timedelta(seconds=5)
_FACTOR = 3
_MAX_PAUSE = timedelta(minutes=10)
#: A node's report may be a heartbeat older than the end of an operation.
_SETTLES_IN = timedelta(seconds=3)
#: Longer than the longest pause, and what bounds the number of operations to look at.
_LOOK_BACK = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementProgress:
    """What is being done about a placement."""

    #: The operation that has not ended.
    operation: str | None = None
    #: Why the last one failed.
    error: JobError | None = None
    #: When the next one may begin.
    retry_at: datetime | None = None

    def may_begin(self, now: datetime) -> bool:
        """Whether to ask for an operation now."""
        return self.operation is None and (self.retry_at is None or self.retry_at <= now)


def placement_progress(
    session: Session, rows: Iterable[PlacementRow], now: datetime
) -> Mapping[tuple[str, str], PlacementProgress]:
    """Look at the operations about some placements; by checkpoint and node."""
    wanted = {(row.checkpoint, row.node): row for row in rows}
    query = select(OperationRow).where(
        OperationRow.target.in_({digest for digest, _ in wanted}),
        OperationRow.kind.in_(_KINDS),
        OperationRow.created_at >= now - _LOOK_BACK,
    )
    found: dict[tuple[str, str], list[OperationRow]] = defaultdict(list)
    for operation in session.scalars(query.order_by(OperationRow.id.desc())):
        found[operation.target, str(operation.args.get("node"))].append(operation)
    return {key: _progress(row, found[key]) for key, row in wanted.items()}


def _progress(row: PlacementRow, operations: Sequence[OperationRow]) -> PlacementProgress:
    """Judge by the operations on a placement, the newest first; what was before its last change is forgotten."""
    is_open = [operation.id for operation in operations if operation.status not in ENDED_OPERATION_STATUSES]
    if is_open:
        return PlacementProgress(operation=is_open[-1])
    if not operations:
        return PlacementProgress()
    last = operations[0]
    ended_at = last.ended_at or last.updated_at
    if last.status is OperationStatus.SUCCEEDED:
        return PlacementProgress(retry_at=ended_at + _SETTLES_IN)
    failures = list(
        takewhile(
            lambda each: each.status is not OperationStatus.SUCCEEDED and each.created_at >= row.updated_at, operations
        )
    )
    if not failures:
        return PlacementProgress()
    code, message = last.error_code or ErrorCode.INTERNAL, last.error_message or ""
    pause = min(_MAX_PAUSE, _FIRST_PAUSE * _FACTOR ** (len(failures) - 1))
    return PlacementProgress(error=JobError(code=code, message=message), retry_at=ended_at + pause)
