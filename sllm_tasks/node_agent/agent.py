"""A node's agent put together: its heartbeat, its store, and the operations it runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from sllm_tasks.cluster import NodeInfo
from sllm_tasks.config import Settings
from sllm_tasks.errors import ErrorCode, ModelUnusableError, SllmError, UnavailableError
from sllm_tasks.failpoints import failpoint
from sllm_tasks.ids import new_id
from sllm_tasks.livestate.jobs import Verdict
from sllm_tasks.node_agent.files import checkpoint_files
from sllm_tasks.node_agent.inspection import inspect_apart
from sllm_tasks.node_agent.peers import PeerServer, fetch_checkpoint
from sllm_tasks.node_agent.store import CheckpointStore
from sllm_tasks.operations import OperationKind
from sllm_tasks.secrets import cluster_secret
from sllm_tasks.services import Services
from sllm_tasks.signing import Trigger
from sllm_tasks.threads import ServiceThread

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0
_RETRY_S = 0.5

Progress = Callable[[int], None]


class NodeAgent:
    """Owns a node's checkpoint store. `run_operation` is called by task bodies; several may run at once."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._node = settings.node
        self._live = services.live
        self._secret = cluster_secret(settings)
        self._agent_id = new_id("agent")
        self._store = CheckpointStore(settings.node_home / "checkpoints")
        self._peers = PeerServer(settings, self._store, self._secret)
        self._thread = ServiceThread("heartbeat", self._beat)
        self._kinds: dict[str, Callable[[str, dict[str, Any], Progress], dict[str, Any]]] = {
            OperationKind.DEPLOY: self._deploy,
            OperationKind.FETCH: self._fetch,
            OperationKind.DROP_CHECKPOINT: self._drop,
        }

    def start(self) -> None:
        """Announce the node and serve its checkpoints."""
        self._peers.start()
        self._thread.start()
        logger.info("node %s is up, checkpoints at %s", self._node, self._peers.url)

    def stop(self) -> None:
        """Fall silent."""
        self._thread.stop()
        self._peers.stop()

    def run_operation(self, trigger: Trigger) -> None:
        """Claim the operation of a trigger, run it and report; a duplicate or a stale trigger does nothing."""
        operations = self._live.operations
        record = operations.claim(trigger.subject, trigger.attempt, self._agent_id, trigger.expires_ms)
        if isinstance(record, str):
            logger.debug("operation %s not claimed: %s", trigger.subject, record)
            return
        logger.info("operation %s: %s %s", trigger.subject, record["kind"], record["target"])
        with _Lease(self, trigger) as lease:
            result = self._run(record, lease.note)
        self._finish(trigger, result)

    def _run(self, record: dict[str, Any], progress: Progress) -> dict[str, Any]:
        try:
            failpoint("operation.start", subject=record["kind"])
            return self._kinds[record["kind"]](record["target"], record["args"], progress)
        except SllmError as error:
            logger.warning("%s %s failed: %s", record["kind"], record["target"], error)
            return {"error": {"code": error.code, "message": str(error)}}
        except Exception as error:
            logger.exception("%s %s failed", record["kind"], record["target"])
            return {"error": {"code": ErrorCode.INTERNAL, "message": f"{type(error).__name__}: {error}"}}

    def _finish(self, trigger: Trigger, result: dict[str, Any]) -> None:
        while True:
            try:
                self._live.operations.finish(trigger.subject, trigger.attempt, self._agent_id, result)
            except UnavailableError as error:
                logger.warning("the result of an operation waits: %s", error)
                time.sleep(_RETRY_S)
            else:
                return

    def _deploy(self, target: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        del target
        source = Path(args["source"])
        if not source.is_dir():
            message = f"there is no directory {source} on node {self._node}"
            raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, message)
        # Before anything is opened: whoever opens a FIFO waits for its other end.
        checkpoint_files(source)
        summary = inspect_apart(source)
        digest = self._store.import_directory(source, progress)
        self._announce()
        num_bytes = sum(path.stat().st_size for path in self._store.path(digest).iterdir())
        return {**summary, "digest": digest, "num_bytes": num_bytes}

    def _fetch(self, target: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        del args
        if target not in self._store.digests():
            peers = [node for node in self._live.fleet.nodes(self._live.now_ms()) if target in node.checkpoints]
            urls = [node.url for node in peers if node.url and node.name != self._node]
            if not urls:
                message = f"no live node has checkpoint {target}"
                raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, message)
            fetch_checkpoint(urls[0], target, self._store, self._secret, progress)
            self._announce()
        return {"digest": target}

    def _drop(self, target: str, args: dict[str, Any], progress: Progress) -> dict[str, Any]:
        del args, progress
        self._store.delete(target)
        self._announce()
        return {"digest": target}

    def _announce(self) -> None:
        node = NodeInfo(name=self._node, checkpoints=self._store.digests(), url=self._peers.url)
        self._live.fleet.beat_node(node, self._live.now_ms())

    def _beat(self, stopping: threading.Event) -> None:
        while True:
            try:
                self._announce()
            except UnavailableError as error:
                logger.warning("no heartbeat: %s", error)
            if stopping.wait(_PERIOD_S):
                return

    def beat_operation(self, trigger: Trigger, done_bytes: int) -> Verdict:
        """Renew the lease of a running operation."""
        progress = {"done": done_bytes, "unit": "bytes"}
        return self._live.operations.beat(trigger.subject, trigger.attempt, self._agent_id, progress)


class _Lease:
    """Keeps an operation ours while it runs, and tells how far it is."""

    def __init__(self, agent: NodeAgent, trigger: Trigger) -> None:
        self._agent = agent
        self._trigger = trigger
        self._done_bytes = 0
        self._thread = ServiceThread(f"lease-{trigger.subject}", self._renew)

    def note(self, done_bytes: int) -> None:
        self._done_bytes = done_bytes

    def _renew(self, stopping: threading.Event) -> None:
        while not stopping.wait(_PERIOD_S):
            try:
                self._agent.beat_operation(self._trigger, self._done_bytes)
            except UnavailableError as error:
                logger.warning("lease of operation %s not renewed: %s", self._trigger.subject, error)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.stop()
