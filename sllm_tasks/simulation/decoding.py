"""Replicas that decode: all jobs of a replica move on together, and replicas of one gpu take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sllm_tasks.cluster import GpuId
from sllm_tasks.simulation.clock import Clock, Timer
from sllm_tasks.simulation.fleet import SimJob, SimReplica

#: Work left over by rounding.
_DONE = 1e-6


class _Batch:
    """The running jobs of a replica, with the work that each had done when the replica had done `progress`."""

    def __init__(self, replica: SimReplica, now_s: float) -> None:
        self.replica = replica
        self.progress = 0.0
        #: Decoded tokens per second, of each job.
        self.rate = 0.0
        self.settled_s = now_s
        self.ends: dict[str, tuple[float, SimJob]] = {}
        self.timer: Timer | None = None

    def settle(self, now_s: float) -> None:
        self.progress += self.rate * (now_s - self.settled_s)
        self.settled_s = now_s

    def step_s(self) -> float:
        return self.replica.model.step_s(self.replica.node.hardware.gpu, len(self.ends))


class Decoding:
    """Tells when jobs have done all of their work."""

    def __init__(self, clock: Clock, finished: Callable[[SimJob], None]) -> None:
        self._clock = clock
        self._finished = finished
        self._batches: dict[str, _Batch] = {}
        self._busy: dict[GpuId, dict[str, _Batch]] = {}

    def start(self, job: SimJob, replica: SimReplica) -> None:
        """Let a job go on from the work it has done."""
        batch = self._batches.get(replica.id)
        if batch is None:
            batch = self._batches[replica.id] = _Batch(replica, self._clock.now_s)
            for gpu in replica.gpus:
                self._busy.setdefault(gpu, {})[replica.id] = batch
        batch.settle(self._clock.now_s)
        batch.ends[job.id] = (batch.progress + job.work - job.work_done, job)
        self._set_rates(replica.gpus)

    def stop(self, job: SimJob, replica: SimReplica) -> None:
        """Stop a job and note what it has done; harmless when it does not run there."""
        batch = self._batches.get(replica.id)
        if batch is None or job.id not in batch.ends:
            return
        batch.settle(self._clock.now_s)
        end, _ = batch.ends.pop(job.id)
        job.work_done = min(job.work, job.work - (end - batch.progress))
        self._close_if_empty(batch)
        self._set_rates(replica.gpus)

    def work_done(self, job: SimJob) -> float:
        """What a job has done by now."""
        batch = self._batches.get(job.replica.id) if job.replica is not None else None
        if batch is None or job.id not in batch.ends:
            return job.work_done
        batch.settle(self._clock.now_s)
        return job.work - (batch.ends[job.id][0] - batch.progress)

    def step_s(self, replica: SimReplica) -> float:
        """Time between two tokens of a job there, or of one that would start."""
        batch = self._batches.get(replica.id)
        if batch is not None and batch.rate > 0:
            return 1 / batch.rate
        return replica.model.step_s(replica.node.hardware.gpu, 1)

    def batch_of(self, replica: SimReplica) -> int:
        """Jobs that run there."""
        batch = self._batches.get(replica.id)
        return 0 if batch is None else len(batch.ends)

    def _set_rates(self, gpus: Iterable[GpuId]) -> None:
        concerned = {id_: batch for gpu in gpus for id_, batch in self._busy.get(gpu, {}).items()}
        for batch in concerned.values():
            batch.settle(self._clock.now_s)
            # Weights of different models are read in turns: a round lasts as long as all of their steps.
            round_s = max(sum(other.step_s() for other in self._busy[gpu].values()) for gpu in batch.replica.gpus)
            batch.rate = 1 / round_s
            self._set_timer(batch)

    def _set_timer(self, batch: _Batch) -> None:
        if batch.timer is not None:
            batch.timer.cancel()
        left = min(end for end, _ in batch.ends.values()) - batch.progress
        batch.timer = self._clock.after(max(left, 0.0) / batch.rate, lambda: self._end_jobs(batch))

    def _end_jobs(self, batch: _Batch) -> None:
        batch.settle(self._clock.now_s)
        ended = [job for end, job in batch.ends.values() if end - batch.progress <= _DONE]
        for job in ended:
            del batch.ends[job.id]
            job.work_done = job.work
        self._close_if_empty(batch)
        self._set_rates(batch.replica.gpus)
        for job in ended:
            self._finished(job)

    def _close_if_empty(self, batch: _Batch) -> None:
        if batch.ends:
            return
        if batch.timer is not None:
            batch.timer.cancel()
        del self._batches[batch.replica.id]
        for gpu in batch.replica.gpus:
            del self._busy[gpu][batch.replica.id]
