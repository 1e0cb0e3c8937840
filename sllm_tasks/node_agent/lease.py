"""Keeps an operation ours while it runs, tells how far it is, and hears when it is not wanted any more."""

from __future__ import annotations

import logging
import threading
from typing import Any, Self

from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate.jobs import Verdict
from sllm_tasks.livestate.operations import OperationStore
from sllm_tasks.signing import Trigger
from sllm_tasks.threads import ServiceThread

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0


class OperationLease:
    """Renewed by a thread of its own for as long as the block lasts."""

    def __init__(self, operations: OperationStore, agent_id: str, trigger: Trigger) -> None:
        self._operations = operations
        self._agent_id = agent_id
        self._trigger = trigger
        self._lost = threading.Event()
        self._progress: dict[str, Any] = {}
        self._thread = ServiceThread(f"lease-{trigger.subject}", self._renew)

    def note(self, done_bytes: int, total_bytes: int) -> None:
        """Tell how far the operation is."""
        self._progress = {"done": done_bytes, "total": total_bytes, "unit": "bytes"}

    def is_canceled(self) -> bool:
        """Whether the operation is somebody else's by now, or nobody's."""
        return self._lost.is_set()

    def _renew(self, stopping: threading.Event) -> None:
        while not stopping.wait(_PERIOD_S):
            try:
                verdict = self._operations.beat(
                    self._trigger.subject, self._trigger.attempt, self._agent_id, self._progress
                )
            except UnavailableError as error:
                logger.warning("lease of operation %s not renewed: %s", self._trigger.subject, error)
                continue
            if verdict is not Verdict.OK:
                self._lost.set()
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.stop()
