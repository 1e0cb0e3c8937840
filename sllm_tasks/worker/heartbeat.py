"""Tells the cluster once a second that this gpu lives, and hears which of its jobs should stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sllm_tasks.cluster import Gpu
from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.jobs import Verdict
from sllm_tasks.threads import ServiceThread
from sllm_tasks.worker.replicas import ReplicaTable
from sllm_tasks.worker.runs import JobRun, RunTable, Stop

logger = logging.getLogger(__name__)

_PERIOD_S = 1.0


class Heartbeat:
    """Two threads: the beat, and an ear for the bell that makes cancelling faster than the beat."""

    def __init__(
        self, live: LiveState, gpu: Callable[[], Gpu], runs: RunTable, replicas: ReplicaTable, wake: Callable[[], None]
    ) -> None:
        self._live = live
        self._gpu = gpu
        self._runs = runs
        self._replicas = replicas
        self._wake = wake
        self._threads = (ServiceThread("heartbeat", self._beat), ServiceThread("cancel-bell", self._listen))

    def start(self) -> None:
        """Register the gpu and start; waits until the live state answers."""
        while True:
            try:
                self._register()
                break
            except UnavailableError as error:
                logger.warning("not registered yet: %s", error)
                time.sleep(_PERIOD_S)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Fall silent."""
        for thread in self._threads:
            thread.stopping.set()
        for thread in self._threads:
            thread.stop()

    def beat_once(self) -> None:
        """Renew every lease now; raises UnavailableError."""
        gpu, runs = self._gpu(), self._runs.all()
        claims = [run.claim for run in runs]
        stats = {"num_jobs": len(runs), "num_replicas": len(self._replicas.loaded())}
        verdicts = self._live.fleet.beat_gpu(gpu.id, gpu.worker_id, claims, stats)
        if verdicts is None:
            logger.info("the live state has forgotten gpu %s; registering again", gpu.id)
            self._register()
            verdicts = [Verdict.STALE] * len(runs)
        for run, verdict in zip(runs, verdicts, strict=True):
            if verdict is Verdict.STALE and not run.finished.is_set() and run.outcome is None:
                self._stop_run(run, Stop.LOST)
            elif verdict is Verdict.CANCEL:
                self._stop_run(run, Stop.CANCEL)
        # For all of the process: the thread that decodes asks nobody.
        self._live.now_ms()

    def _register(self) -> None:
        self._live.now_ms()
        waiting = self._live.fleet.register_gpu(self._gpu(), [loaded.order for loaded in self._replicas.loaded()])
        if waiting:
            logger.info("%d jobs of the worker before this one wait again", waiting)

    def _beat(self, stopping: threading.Event) -> None:
        while not stopping.wait(_PERIOD_S):
            try:
                self.beat_once()
            except UnavailableError as error:
                logger.warning("no heartbeat: %s", error)

    def _listen(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            try:
                bell = self._live.fleet.listen_for_cancels(self._gpu().id)
                try:
                    while not stopping.is_set():
                        if (job_id := bell.wait(_PERIOD_S)) and (run := self._runs.get(job_id)):
                            self._stop_run(run, Stop.CANCEL)
                finally:
                    bell.close()
            except UnavailableError as error:
                logger.warning("not listening: %s", error)
                stopping.wait(_PERIOD_S)

    def _stop_run(self, run: JobRun, stop: Stop) -> None:
        if run.request_stop(stop):
            self._wake()
