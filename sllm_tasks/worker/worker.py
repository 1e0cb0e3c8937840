"""A gpu's worker put together: what it owns, started and stopped in order."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

import torch

from cuda_kernels.backend import warm_up
from sllm_tasks.cluster import Gpu, GpuId, GpuState
from sllm_tasks.config import Settings
from sllm_tasks.engines.registry import preload_engine
from sllm_tasks.errors import UnavailableError
from sllm_tasks.failpoints import failpoint
from sllm_tasks.ids import new_id
from sllm_tasks.secrets import cluster_secret
from sllm_tasks.services import Services
from sllm_tasks.signing import Trigger
from sllm_tasks.threads import ServiceThread
from sllm_tasks.worker.checkpoints import Checkpoints
from sllm_tasks.worker.device import device_memory_bytes, device_name
from sllm_tasks.worker.emitter import Emitter
from sllm_tasks.worker.engine_loop import EngineLoop
from sllm_tasks.worker.execution import Executor
from sllm_tasks.worker.heartbeat import Heartbeat
from sllm_tasks.worker.memory import NodeMemory
from sllm_tasks.worker.moves.moves import Moves
from sllm_tasks.worker.moves.source import Source
from sllm_tasks.worker.moves.target import Target
from sllm_tasks.worker.neighbours import Neighbours
from sllm_tasks.worker.replicas import ReplicaTable
from sllm_tasks.worker.runs import RunTable, Stop

logger = logging.getLogger(__name__)


#: The engine that is imported before the first job asks for it.
_COMMON_ENGINE = "steploop"
#: How often to look for kinds of models that are new on the node.
_REHEARSE_S = 2.0
#: How long handed-over jobs may take to write their last tokens.
_HAND_OVER_S = 10.0


class GpuWorker:
    """Owns one gpu of one node. Task bodies call `run_job` and `unload`; everything else is its own threads."""

    def __init__(self, settings: Settings, services: Services) -> None:
        self._settings = settings
        self._services = services
        device = device_name(settings)
        self._gpu = Gpu(
            id=GpuId(settings.node, settings.gpu),
            worker_id=new_id("worker"),
            device=device,
            capacity_bytes=device_memory_bytes(settings, device),
        )
        self._runs = RunTable()
        self._emitter = Emitter(services.live)
        self._loop = EngineLoop(self._emitter, services.live.clock.known_ms)
        self._memory = NodeMemory(settings, device)
        neighbours = Neighbours(services.live, self._gpu.id, device, services.dispatcher.unload_replica)
        secret = cluster_secret(settings)
        self._checkpoints = Checkpoints(
            self._gpu.id.node, settings.node_home / "checkpoints", secret, self._copies_of, self._gpu.device
        )
        self._replicas = ReplicaTable(services.live, self._loop, self._checkpoints, self._memory, neighbours)
        source = Source(services.live, self._runs, self._loop.wake)
        self._executor = Executor(services.live, services.dispatcher, self._replicas, self._loop, self._runs, source)
        target = Target(services.live, self._gpu.worker_id, self._replicas, self._loop, self._executor.go_on)
        self._moves = Moves(services.live, self._gpu.id, source, target)
        self._heartbeat = Heartbeat(services.live, lambda: self._gpu, self._runs, self._replicas, self._loop.wake)
        self._janitor = ServiceThread("janitor", lambda stopping: self._replicas.free_unwanted(self._gpu.id, stopping))
        self._rehearsal = ServiceThread("rehearsal", self._rehearse)
        self._leaving = threading.Event()

    def start(self) -> None:
        """Announce the gpu; from now on the router may send jobs."""
        self._memory.start()
        self._emitter.start()
        self._loop.start()
        self._heartbeat.start()
        self._moves.start()
        self._janitor.start()
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()
        logger.info("gpu %s is up: %s, %d bytes", self._gpu.id, self._gpu.device, self._gpu.capacity_bytes)

    def run_job(self, trigger: Trigger) -> None:
        """Claim the job of a trigger and run it; a duplicate or a stale trigger does nothing."""
        failpoint("claim.start", subject=trigger.subject)
        run = self._executor.claim(trigger, self._gpu)
        if run is None:
            return
        if self._leaving.is_set():
            run.request_stop(Stop.HAND_OVER)
        self._executor.execute(run)

    def load(self, trigger: Trigger) -> None:
        """Load the replica of a trigger, unless that has begun, or the cluster no longer wants it."""
        if not self._leaving.is_set():
            self._replicas.ensure(trigger.subject)

    def unload(self, trigger: Trigger) -> None:
        """Free the replica of a trigger."""
        self._replicas.unload(trigger.subject)

    def hand_over(self, job_id: str) -> None:
        """Give one job back at once; another worker goes on."""
        if (run := self._runs.get(job_id)) and run.request_stop(Stop.HAND_OVER):
            self._loop.wake()

    def leave(self) -> None:
        """Take nothing new; what has not ended after the grace period goes on elsewhere. Returns at once."""
        if not self._leaving.is_set():
            self._leaving.set()
            threading.Thread(target=self._leave, name="leave", daemon=True).start()

    def stop(self) -> None:
        """Sign off and free everything; the gpu is gone from the cluster when this returns."""
        self.leave()
        if not self._runs.wait_until_empty(self._settings.grace_s + _HAND_OVER_S):
            logger.warning("%d jobs are left to the sweeper", len(self._runs.all()))
        self._executor.stop()
        self._moves.stop()
        self._rehearsal.stop()
        self._janitor.stop()
        self._heartbeat.stop()
        self._loop.stop()
        self._emitter.stop()
        try:
            self._services.live.fleet.reap_gpu(self._gpu.id, self._gpu.worker_id)
        except UnavailableError as error:
            logger.warning("left without signing off: %s", error)
        # Last: a large pool that is page-locked for a GPU takes seconds to be let go.
        self._memory.stop()

    def _copies_of(self, digest: str) -> dict[str, str | None]:
        """Which nodes report a checkpoint, and where their agents are."""
        live = self._services.live
        return {node.name: node.url for node in live.fleet.nodes(live.now_ms()) if digest in node.checkpoints}

    def _warm_up(self) -> None:
        """What the first load would have to wait for: libraries, the models' code, and on a GPU its kernels."""
        preload_engine(_COMMON_ENGINE)
        if self._gpu.device != "cpu":
            support = warm_up(torch.device(self._gpu.device))
            logger.info("kernels on %s: %s %s", self._gpu.device, support.backend, support.reason)
        self._rehearsal.start()

    def _rehearse(self, stopping: threading.Event) -> None:
        """Rehearse kinds of models as they come to the node, while no job wants the core."""
        more = True
        while not stopping.wait(0 if more else _REHEARSE_S):
            try:
                more = not self._runs.all() and self._checkpoints.rehearse()
            except Exception:
                # The code of models may fail in ways of its own; whoever loads such a one is told.
                logger.warning("a kind of model could not be rehearsed", exc_info=True)
                more = False

    def _announce_leaving(self) -> bool:
        try:
            # Who is not known will say so when it registers.
            self._services.live.fleet.set_gpu_state(self._gpu.id, GpuState.DRAINING)
        except UnavailableError as error:
            logger.warning("draining unannounced: %s", error)
            return False
        return True

    def _leave(self) -> None:
        self._gpu = replace(self._gpu, state=GpuState.DRAINING)
        deadline_s = time.monotonic() + self._settings.grace_s
        is_announced = self._announce_leaving()
        while time.monotonic() < deadline_s and not self._runs.wait_until_empty(0.1):
            is_announced = is_announced or self._announce_leaving()
        for run in self._runs.all():
            self.hand_over(run.job_id)
