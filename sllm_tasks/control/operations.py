"""Operations from their row to their result: give them to a node, watch over them, commit what came of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sllm_tasks.control.results import commit_failure, commit_success, enter_checkpoint, refusal
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.errors import ErrorCode, NotFoundError, error_code
from sllm_tasks.jobs import JobError
from sllm_tasks.ledger.database import Database, IllegalRowError
from sllm_tasks.ledger.encoding import from_ms, to_ms
from sllm_tasks.ledger.inventory import note_deleting, remove_model
from sllm_tasks.ledger.operations import (
    begin_operation,
    get_operation,
    give_back_operation,
    list_operations,
    note_progress,
    silent_operations,
    succeed_operation,
)
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.states import OperationStatus
from sllm_tasks.ledger.tables import OperationRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.operations import OperationKind

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 3
_LIMIT = 1000
#: Of one model, looked at for those that still run.
_LAST_DEPLOYMENTS = 10
#: Operations of one node at a time: as many as its agent runs, so that none is thought lost while it waits there.
_MAX_PER_NODE = 4
#: How long an operation waits for a node agent to come back, and for one that was never heard of to show up.
_NO_NODE_GRACE = timedelta(seconds=60)
_UNKNOWN_NODE_GRACE = timedelta(seconds=5)
#: A node that has not claimed an operation by then gets its message again, and loses it after the second time.
_RESEND_MS = 5_000
_GIVE_UP_MS = 30_000


class OperationDesk:
    """Called by the reconciler's thread and by the ledger writer; rows decide, so both may call at once."""

    def __init__(self, ledger: Database, live: LiveState, dispatcher: Dispatcher) -> None:
        self._ledger = ledger
        self._live = live
        self._dispatcher = dispatcher

    def step(self) -> None:
        """Give out what is pending and look after what runs; raises UnavailableError."""
        now_ms = self._live.now_ms()
        with self._ledger.reading() as session:
            rows = silent_operations(session, since=from_ms(now_ms) + timedelta(days=1), limit=_LIMIT)
        # A deployment that finds its checkpoint there must not lose it to one that is on its way to delete it.
        dropping = {row.node for row in rows if row.kind == OperationKind.DROP_CHECKPOINT}
        num_running = Counter(row.node for row in rows if row.status is OperationStatus.RUNNING)
        # Somebody waits for a deployment; hundreds of copies may be on their way because control wants them.
        for row in sorted(rows, key=lambda row: row.kind != OperationKind.DEPLOY):
            if row.kind == OperationKind.DELETE_MODEL:
                self._delete_model(row, now_ms)
            elif row.status is OperationStatus.PENDING:
                node = self._runner(row, now_ms)
                may_begin = num_running[node] < _MAX_PER_NODE and not (
                    row.kind == OperationKind.DEPLOY and node in dropping
                )
                if node is not None and may_begin:
                    num_running[node] += 1
                    self._give_out(row, node, now_ms)
            else:
                self._watch(row, now_ms)

    def commit(self, data: Mapping[str, Any]) -> None:
        """Commit what a node agent reported about an operation; raises UnavailableError."""
        operation_id, attempt = data["operation_id"], data["attempt"]
        view = self._live.operations.view(operation_id)
        if view is None or view.attempt != attempt or view.result is None:
            return
        error = view.result.get("error")
        failure = JobError(code=error_code(error["code"]), message=error["message"]) if error else None
        try:
            self._commit(operation_id, attempt, view.result, failure)
        except IllegalRowError as refused:
            # The next time it would be the same, and whoever commits would get no further.
            message = f"the ledger does not take what came of it: {refused}"
            self._commit(operation_id, attempt, view.result, JobError(code=ErrorCode.INTERNAL, message=message))

    def _commit(self, operation_id: str, attempt: int, result: dict[str, Any], failure: JobError | None) -> None:
        now = from_ms(self._live.now_ms())
        gpus = self._live.fleet.gpus()
        with self._ledger.transaction() as session:
            try:
                row = get_operation(session, operation_id)
            except NotFoundError:
                return
            if failure is None and row.kind == OperationKind.DEPLOY:
                enter_checkpoint(session, row, result, now)
                failure = refusal(row, result, gpus)
            if failure is None:
                counts = commit_success(session, row, attempt, result, now)
            elif failure.code is ErrorCode.CHECKPOINT_MISSING and self._another_node(row):
                give_back_operation(session, row.id, attempt=attempt, now=now)
                return
            else:
                counts = commit_failure(session, row, attempt, failure, now)
        if counts:
            logger.info("operation %s (%s) ended%s", row.id, row.kind, f": {failure.message}" if failure else "")

    def _runner(self, row: OperationRow, now_ms: int) -> str | None:
        """Choose the node that is to run an operation; None while there is none, or when it is given up."""
        now = from_ms(now_ms)
        nodes = self._nodes()
        wanted = row.args.get("node")
        if wanted is None and nodes:
            node = nodes[row.attempts % len(nodes)]
        elif wanted in nodes:
            node = str(wanted)
        else:
            absence = self._absence(wanted, now - row.created_at)
            if absence is not None:
                self._fail(row, absence, now)
            return None
        if row.attempts >= max(_MAX_ATTEMPTS, len(nodes)):
            message = f"given up after {row.attempts} node agents dropped it"
            self._fail(row, JobError(code=ErrorCode.WORKER_LOST, message=message), now)
            return None
        return node

    def _absence(self, wanted: object, waited: timedelta) -> JobError | None:
        """Say why nobody will run an operation; None while its node, or any, may still come up."""
        known = self._live.fleet.known_nodes()
        if wanted is not None and wanted not in known:
            message = f"there is no node {wanted!r}; known: {', '.join(known) or 'none'}"
            return JobError(code=ErrorCode.INVALID_REQUEST, message=message) if waited > _UNKNOWN_NODE_GRACE else None
        who = "all node agents are" if wanted is None else f"the agent of node {wanted} is"
        message = f"{who} not alive"
        return JobError(code=ErrorCode.UNAVAILABLE, message=message) if waited > _NO_NODE_GRACE else None

    def _give_out(self, row: OperationRow, node: str, now_ms: int) -> None:
        if row.kind == OperationKind.DEPLOY:
            self._stop_deployments(row.target)
        with self._ledger.transaction() as session:
            attempt = begin_operation(session, row.id, node=node, now=from_ms(now_ms))
        if attempt is not None:
            record = {"kind": row.kind, "target": row.target, "args": row.args}
            self._live.operations.create(row.id, attempt, record)
            self._dispatcher.run_operation(node, row.id, attempt)
            logger.info("operation %s (%s %s) goes to node %s", row.id, row.kind, row.target, node)

    def _watch(self, row: OperationRow, now_ms: int) -> None:
        view = self._live.operations.view(row.id)
        silent_ms = now_ms - to_ms(row.updated_at)
        if view is not None and view.result is not None:
            self.commit({"operation_id": row.id, "attempt": row.attempts})
        elif view is not None and view.owner and view.lease_ms > now_ms:
            with self._ledger.transaction() as session:
                note_progress(session, row.id, attempt=row.attempts, progress=view.progress, now=from_ms(now_ms))
        elif view is not None and not view.owner and silent_ms < _GIVE_UP_MS:
            if silent_ms > _RESEND_MS and row.node is not None:
                self._dispatcher.run_operation(row.node, row.id, row.attempts)
        else:
            logger.warning("operation %s was dropped by node %s", row.id, row.node)
            with self._ledger.transaction() as session:
                give_back_operation(session, row.id, attempt=row.attempts, now=from_ms(now_ms))

    def _delete_model(self, row: OperationRow, now_ms: int) -> None:
        """The router unloads the idle replicas of a model that is being deleted; the last one gone, so is the model."""
        now = from_ms(now_ms)
        with self._ledger.transaction() as session:
            attempt = row.attempts or begin_operation(session, row.id, node=None, now=now) or 0
            note_deleting(session, row.target, now=now)
        self._stop_deployments(row.target)
        if not self._live.fleet.has_replicas(row.target):
            with self._ledger.transaction() as session:
                remove_model(session, row.target)
                succeed_operation(session, row.id, attempt=attempt, result={}, now=now)

    def _stop_deployments(self, model: str) -> None:
        """Take the deployments of a model that were superseded from whoever runs them."""
        asked, failed = PageRequest(limit=_LAST_DEPLOYMENTS), frozenset({OperationStatus.FAILED})
        with self._ledger.reading() as session:
            rows = list_operations(session, asked, target=model, statuses=failed).rows
        for row in rows:
            view = self._live.operations.view(row.id)
            if row.kind == OperationKind.DEPLOY and view is not None and view.result is None:
                self._live.operations.revoke(row.id)

    def _another_node(self, row: OperationRow) -> bool:
        return not row.args.get("node") and row.attempts < len(self._nodes())

    def _nodes(self) -> list[str]:
        return sorted(node.name for node in self._live.fleet.nodes(self._live.now_ms()))

    def _fail(self, row: OperationRow, error: JobError, now: datetime) -> None:
        with self._ledger.transaction() as session:
            commit_failure(session, row, row.attempts, error, now)
