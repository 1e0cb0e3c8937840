"""A node's agent put together: its heartbeat, its store, and the operations it runs."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from sllm_tasks.cluster import NodeInfo, TierUsage
from sllm_tasks.config import Settings
from sllm_tasks.errors import ErrorCode, SllmError, UnavailableError
from sllm_tasks.failpoints import failpoint
from sllm_tasks.ids import new_id
from sllm_tasks.node_agent.dram import DramTier
from sllm_tasks.node_agent.lease import OperationLease
from sllm_tasks.node_agent.operations import NodeOperations, Result
from sllm_tasks.node_agent.peers import PeerServer
from sllm_tasks.node_agent.room import RoomKeeper
from sllm_tasks.node_agent.store import CheckpointStore
from sllm_tasks.secrets import cluster_secret
from sllm_tasks.services import Services
from sllm_tasks.signing import Trigger
from sllm_tasks.threads import ServiceThread

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
_RETRY_S = 0.5


class NodeAgent:
    """Owns a node's checkpoint store. `run_operation` is called by task bodies; several may run at once."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._node = settings.node
        self._live = services.live
        secret = cluster_secret(settings)
        self._agent_id = new_id("agent")
        self._store = CheckpointStore(settings.node_home / "checkpoints")
        self._rooms = RoomKeeper(self._store, settings.ssd_bytes)
        self._dram = DramTier(settings.pool_folder, settings.pool_capacity_bytes)
        self._peers = PeerServer(settings, self._store, secret)
        self._operations = NodeOperations(
            node=settings.node,
            secret=secret,
            store=self._store,
            rooms=self._rooms,
            dram=self._dram,
            peers=lambda: self._live.fleet.nodes(self._live.now_ms()),
            nursery=settings.nursery_socket,
        )
        self._thread = ServiceThread("heartbeat", self._beat)
        # Operations that run here, by id and attempt. Under the lock.
        self._lock = threading.Lock()
        self._running: set[tuple[str, int]] = set()

    def start(self) -> None:
        """Announce the node and serve its checkpoints."""
        self._peers.start()
        self._thread.start()
        logger.info("node %s is up, checkpoints at %s", self._node, self._peers.url)

    def stop(self) -> None:
        """Fall silent."""
        self._thread.stop()
        self._peers.stop()
        self._dram.close()

    def run_operation(self, trigger: Trigger) -> None:
        """Claim the operation of a trigger, run it and report; a duplicate or a stale trigger does nothing."""
        work = (trigger.subject, trigger.attempt)
        with self._lock:
            # Its claim would be granted once more, for whoever has an operation may claim it again.
            if work in self._running:
                logger.debug("operation %s runs here already", trigger.subject)
                return
            self._running.add(work)
        try:
            self._claim_and_run(trigger)
        finally:
            with self._lock:
                self._running.discard(work)

    def _claim_and_run(self, trigger: Trigger) -> None:
        operations = self._live.operations
        record = operations.claim(trigger.subject, trigger.attempt, self._agent_id, trigger.expires_ms)
        if isinstance(record, str):
            logger.debug("operation %s not claimed: %s", trigger.subject, record)
            return
        logger.info("operation %s: %s %s", trigger.subject, record["kind"], record["target"])
        with OperationLease(operations, self._agent_id, trigger) as lease:
            result = self._run(record, lease)
        self._finish(trigger, result)

    def _run(self, record: dict[str, Any], lease: OperationLease) -> Result:
        kind, target = record["kind"], record["target"]
        try:
            failpoint("operation.start", subject=kind)
            return self._operations.run(kind, target, record["args"], lease)
        except SllmError as error:
            logger.warning("%s %s failed: %s", kind, target, error)
            return {"error": {"code": error.code, "message": str(error)}}
        except Exception as error:
            logger.exception("%s %s failed", kind, target)
            return {"error": {"code": ErrorCode.INTERNAL, "message": f"{type(error).__name__}: {error}"}}

    def _finish(self, trigger: Trigger, result: Result) -> None:
        """Report; what has changed is announced first, for whoever hears of the end looks for it."""
        while True:
            try:
                self._announce()
                self._live.operations.finish(trigger.subject, trigger.attempt, self._agent_id, result)
            except UnavailableError as error:
                logger.warning("the result of an operation waits: %s", error)
                time.sleep(_RETRY_S)
            else:
                return

    def _announce(self) -> None:
        checkpoints, ssd = self._look_at_ssd()
        dram = self._dram.report()
        node = NodeInfo(
            name=self._node,
            checkpoints=checkpoints,
            in_dram=dram.complete & checkpoints,
            kept_in_dram=dram.kept & checkpoints,
            ssd=ssd,
            dram=dram.usage,
            url=self._peers.url,
        )
        self._live.fleet.beat_node(node, self._live.now_ms())

    def _look_at_ssd(self) -> tuple[frozenset[str], TierUsage]:
        try:
            return self._store.digests(), self._rooms.usage()
        except OSError as error:
            message = f"{self._store.root}: {error.strerror}"
            return frozenset(), TierUsage(capacity_bytes=0, used_bytes=0, error=message)

    def _beat(self, stopping: threading.Event) -> None:
        while True:
            try:
                self._announce()
            except UnavailableError as error:
                logger.warning("no heartbeat: %s", error)
            if stopping.wait(_PERIOD_S):
                return
