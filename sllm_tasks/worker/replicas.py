"""The replicas that this worker has loaded: load on demand, once, however many jobs ask; free when told."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import Tokenizer

from loaders.checkpoint import LoadedCheckpoint
from sllm_tasks.cluster import GpuId, Replica, ReplicaState
from sllm_tasks.engines.base import CheckpointLoader, DeviceLostError, Engine, EngineLimits
from sllm_tasks.engines.registry import create_engine
from sllm_tasks.errors import StaleError, UnavailableError
from sllm_tasks.failpoints import failpoint
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.fleet import ReplicaOrder
from sllm_tasks.threads import end_process
from sllm_tasks.worker.checkpoints import Checkpoints, OpenedCheckpoint
from sllm_tasks.worker.engine_loop import EngineLoop
from sllm_tasks.worker.load_progress import LoadProgress
from sllm_tasks.worker.memory import NodeMemory
from sllm_tasks.worker.neighbours import Neighbours

logger = logging.getLogger(__name__)

_LOOK_FOR_UNWANTED_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedReplica:
    """A replica in this process's memory."""

    order: ReplicaOrder
    engine: Engine
    tokenizer: Tokenizer
    limits: EngineLimits

    @property
    def replica(self) -> Replica:
        """The replica as the cluster knows it."""
        return self.order.replica


class ReplicaTable:
    """Loads happen one at a time; the lock is held for table changes only."""

    def __init__(
        self, live: LiveState, loop: EngineLoop, checkpoints: Checkpoints, memory: NodeMemory, neighbours: Neighbours
    ) -> None:
        self._live = live
        self._loop = loop
        self._checkpoints = checkpoints
        self._memory = memory
        self._neighbours = neighbours
        self._lock = threading.Lock()
        # Held while memory is taken or freed.
        self._loading = threading.Lock()
        self._replicas: dict[str, Future[LoadedReplica]] = {}
        # Ends a load that waits or is under way, by the replica it is for.
        self._cancels: dict[str, threading.Event] = {}

    def loaded(self) -> list[LoadedReplica]:
        """Replicas that take jobs."""
        with self._lock:
            futures = list(self._replicas.values())
        return [future.result() for future in futures if future.done() and not future.exception()]

    def ensure(self, replica_id: str) -> Future[LoadedReplica]:
        """Load a replica unless that has begun already; the future tells when, or why it did not work.

        Its errors: ModelUnusableError (missing on this node, corrupt, unsupported), OutOfMemoryError, and StaleError
        when the cluster no longer wants this replica.
        """
        with self._lock:
            future = self._replicas.get(replica_id)
            if future is None:
                future = self._replicas[replica_id] = Future()
                threading.Thread(
                    target=self._load_into, args=(future, replica_id), name=f"load-{replica_id}", daemon=True
                ).start()
        return future

    def unload(self, replica_id: str) -> None:
        """Free a closed replica, also one that is still being loaded; one that is not here is only forgotten."""
        with self._lock:
            if replica_id in self._cancels:
                self._cancels[replica_id].set()
        with self._loading:
            with self._lock:
                future = self._replicas.pop(replica_id, None)
            # A load that waits for its turn finds that it is not wanted any more.
            if future is not None and future.done() and not future.exception():
                loaded = future.result()
                self._loop.remove(loaded.engine)
                loaded.engine.unload()
                logger.info("replica %s of %s unloaded", replica_id, loaded.replica.model)
            self._live.fleet.drop_replica(replica_id)

    def free_unwanted(self, gpu: GpuId, stopping: threading.Event) -> None:
        """Free, again and again, what the cluster has closed: a message to unload a replica may have been lost.

        And what it does not know: the live state may have been lost as a replica became ready, between the cluster's
        word and the next registration.
        """
        unknown_before: set[str] = set()
        while not stopping.wait(_LOOK_FOR_UNWANTED_S):
            try:
                for replica in self._live.fleet.closed_replicas(gpu):
                    if replica.leader == gpu:
                        self.unload(replica.id)
                # A registration is less than a period away: who is known by then stays.
                unknown = self._unknown()
                for replica_id in unknown & unknown_before:
                    logger.warning("the cluster knows nothing of replica %s", replica_id)
                    self.unload(replica_id)
                unknown_before = unknown
            except UnavailableError as error:
                logger.warning("closed replicas stay for now: %s", error)

    def _unknown(self) -> set[str]:
        """Loaded replicas of which the live state has no record."""
        ids = [loaded.replica.id for loaded in self.loaded()]
        found = self._live.fleet.replicas(ids)
        return {replica_id for replica_id, order in zip(ids, found, strict=True) if order is None}

    def _load_into(self, future: Future[LoadedReplica], replica_id: str) -> None:
        try:
            with self._cancelable(replica_id) as cancel:
                order = self._wanted(replica_id)
                freeing_since_s = time.monotonic()
                for closed_id in self._neighbours.closed_here(order.replica):
                    self.unload(closed_id)
                freeing_s = time.monotonic() - freeing_since_s
                self._neighbours.wait_for_memory(order.replica, cancel)
                with self._loading:
                    future.set_result(self._load(self._wanted(replica_id), cancel, freeing_s))
        except DeviceLostError:
            # Nothing works any more in this process, for none of its replicas.
            end_process(f"replica {replica_id} was not loaded")
        except BaseException as error:  # noqa: BLE001 - the edge of a thread; whoever waits for the future gets it
            with self._lock:
                self._replicas.pop(replica_id, None)
            future.set_exception(error)
            # What the live state still calls loading is loaded by the next job that is sent to it, or closed.
            if not isinstance(error, UnavailableError):
                self._drop(replica_id)

    def _wanted(self, replica_id: str) -> ReplicaOrder:
        order = self._live.fleet.replica(replica_id)
        if order is None or order.replica.state is not ReplicaState.LOADING:
            raise StaleError(f"replica {replica_id} is not to be loaded any more")
        return order

    def _load(self, order: ReplicaOrder, cancel: threading.Event, freeing_s: float) -> LoadedReplica:
        progress = LoadProgress(self._live, order.replica, freeing_s)
        progress.begin()
        failpoint("load.start", subject=order.replica.model)
        engine = create_engine(order.replica.engine)
        limits = EngineLimits(max_jobs=order.replica.max_jobs, context=order.replica.context)
        devices = self._neighbours.devices(order.replica)
        with self._checkpoints.open(order.replica.checkpoint, cancel) as opened:
            tokenizer = self._checkpoints.tokenizer(opened.path)
            engine.load(opened.path, devices, limits, self._loader(opened, devices, progress, cancel))
        try:
            failpoint("load.end", subject=order.replica.model)
            equality = engine.equality_class()
            if not self._live.fleet.replica_ready(order.replica.id, equality):
                raise StaleError(f"replica {order.replica.id} was given up while it was loaded")
        except BaseException:
            engine.unload()
            raise
        self._loop.add(engine)
        progress.ready()
        order = replace(order, equality=equality)
        return LoadedReplica(order=order, engine=engine, tokenizer=tokenizer, limits=limits)

    def _drop(self, replica_id: str) -> None:
        try:
            self._live.fleet.drop_replica(replica_id)
        except UnavailableError as error:
            logger.warning("replica %s is not dropped yet: %s", replica_id, error)

    def _loader(
        self, opened: OpenedCheckpoint, devices: tuple[str, ...], progress: LoadProgress, cancel: threading.Event
    ) -> CheckpointLoader:
        """Make a way to load that tells the cluster how far it is, and ends when the replica is closed."""

        def load(path: Path, *, with_model: bool) -> LoadedCheckpoint:
            del path
            loaded = self._memory.load(opened, devices, with_model=with_model, on_progress=progress.note, cancel=cancel)
            progress.loaded(loaded.report)
            return loaded

        return load

    @contextmanager
    def _cancelable(self, replica_id: str) -> Iterator[threading.Event]:
        cancel = threading.Event()
        with self._lock:
            self._cancels[replica_id] = cancel
        try:
            yield cancel
        finally:
            with self._lock:
                del self._cancels[replica_id]
