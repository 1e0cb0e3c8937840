"""Send triggers: the only place that publishes Celery messages."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

from celery import Celery
from kombu.exceptions import OperationalError

from sllm_tasks.cluster import GpuId
from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate import LiveState
from sllm_tasks.signing import TRIGGER_LIFE_MS, Signer, Trigger

RUN_JOB: Final = "sllm.run_job"
LOAD_REPLICA: Final = "sllm.load_replica"
UNLOAD_REPLICA: Final = "sllm.unload_replica"
ROUTE: Final = "sllm.route"
RUN_OPERATION: Final = "sllm.run_operation"

ROUTER_QUEUE: Final = "router"
CONTROL_QUEUE: Final = "control"

#: How every message is sent. Readers declare their queues themselves, and nobody reads arguments in a log: both took a
#: fifth of the time of sending.
_SENDING: Final[Mapping[str, Any]] = {"ignore_result": True, "declare": [], "argsrepr": "", "kwargsrepr": ""}

logger = logging.getLogger(__name__)


def node_queue(node: str) -> str:
    """The queue of a node's agent."""
    return f"node.{node}"


def drop_queue(app: Celery, gpu: GpuId) -> None:
    """Throw away the messages for a gpu that is gone: all that a worker could do with them is to find them stale."""
    with app.connection_for_write() as connection:
        try:
            connection.default_channel.queue_purge(gpu.queue)
        except (OperationalError, *connection.recoverable_connection_errors) as error:
            raise UnavailableError(f"the broker does not drop a queue: {error}") from error


class Dispatcher:
    """Signs and publishes; safe to use from many threads. A trigger that gets lost is sent again by the sweeper."""

    def __init__(self, app: Celery, signer: Signer, live: LiveState) -> None:
        self._app = app
        self._signer = signer
        self._live = live

    def run_job(self, gpu: GpuId, job_id: str, attempt: int) -> None:
        """Tell a gpu's worker that a job is reserved on it."""
        self._send(RUN_JOB, gpu.queue, job_id, attempt)

    def load_replica(self, gpu: GpuId, replica_id: str) -> None:
        """Tell a gpu's worker to load a replica that no job waits for yet."""
        self._send(LOAD_REPLICA, gpu.queue, replica_id, 0)

    def unload_replica(self, gpu: GpuId, replica_id: str) -> None:
        """Tell a gpu's worker to free a closed replica."""
        self._send(UNLOAD_REPLICA, gpu.queue, replica_id, 0)

    def run_operation(self, node: str, operation_id: str, attempt: int) -> None:
        """Tell a node's agent that there is work for it."""
        self._send(RUN_OPERATION, node_queue(node), operation_id, attempt)

    def route(self) -> None:
        """Wake the router, unless a trigger is already on its way."""
        if self._live.router.kick():
            self.send_kick()

    def send_kick(self) -> None:
        """Send the trigger that the live state has just told us to send."""
        self._send(ROUTE, ROUTER_QUEUE, "", 0)

    def drop_queue(self, gpu: GpuId) -> None:
        """Throw away the messages for a gpu that is gone."""
        drop_queue(self._app, gpu)

    def _send(self, task: str, queue: str, subject: str, attempt: int) -> None:
        expires_ms = self._live.now_ms() + TRIGGER_LIFE_MS
        message = self._signer.sign(Trigger(task=task, subject=subject, attempt=attempt, expires_ms=expires_ms))
        try:
            self._app.send_task(task, kwargs=message, queue=queue, retry=False, **_SENDING)
        except OperationalError as error:
            raise UnavailableError(f"the broker does not take messages: {error}") from error
