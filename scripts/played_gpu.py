"""A gpu whose worker is played: its jobs get tokens at an even rate, and nothing is computed for them."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from sllm_tasks.cluster import Gpu, GpuId, Replica, ReplicaState
from sllm_tasks.jobs import FinishReason, JobStatus, Outcome, TokenRecord, Usage
from sllm_tasks.ledger.tables import ModelRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.fleet import ReplicaOrder
from sllm_tasks.livestate.jobs import Append, Claim

#: Jobs that the played replica holds at once: more than any measurement submits.
_SLOTS = 1_000_000
_PLACED_WITHIN_S = 20.0


class PlayedGpu:
    """Announces a gpu with one ready replica of a model, and keeps it alive; a context manager."""

    _WORKER = "worker_played"
    _GPU = GpuId("played", 0)

    def __init__(self, live: LiveState, model: ModelRow) -> None:
        self._live = live
        self._gpu = Gpu(id=self._GPU, worker_id=self._WORKER, device="cpu", capacity_bytes=model.bytes_per_gpu)
        replica = Replica(
            id="replica_played", model=model.name, checkpoint=model.checkpoint or "", gpus=(self._GPU,),
            state=ReplicaState.READY, bytes_per_gpu=model.bytes_per_gpu, max_jobs=_SLOTS, engine=model.engine,
            context=model.context,
        )  # fmt: skip
        self._order = ReplicaOrder(replica=replica)
        self._claims: list[Claim] = []
        self._held: list[Claim] = []
        self._stopping = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._live.fleet.register_gpu(self._gpu, [self._order])
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._heart.join()

    def hold(self, job_id: str) -> None:
        """Take a job that gets no tokens and does not end.

        Without any, the router would close the replica: it is not what its model has, for it takes more jobs at once.
        """
        self._held.append(self._claimed(job_id))

    def claim(self, job_id: str) -> None:
        """Take a job; the first ones are placed here by the router, which opens the fast path with that."""
        self._claims.append(self._claimed(job_id))

    def _claimed(self, job_id: str) -> Claim:
        deadline_s = time.monotonic() + _PLACED_WITHIN_S
        while True:
            claim = self._live.jobs.claim(job_id, 1, self._GPU, self._WORKER, self._live.now_ms() + 60_000)
            if isinstance(claim, Claim):
                return claim
            if time.monotonic() > deadline_s:
                (job,) = self._live.jobs.views([job_id])
                raise SystemExit(f"job {job_id} was not placed on the played gpu ({claim}): {job}")
            time.sleep(0.05)

    def emit(self, num_tokens: int, period_s: float) -> float:
        """Write a token for each claimed job every period; seconds that it took."""
        start_s = time.monotonic()
        for index in range(num_tokens):
            token = TokenRecord(index=index, token_id=index, text=" token")
            self._live.jobs.append(
                [
                    Append(job_id=claim.spec.job_id, attempt=claim.attempt, epoch=claim.epoch, tokens=(token,))
                    for claim in self._claims
                ]
            )
            time.sleep(max(0.0, start_s + (index + 1) * period_s - time.monotonic()))
        return time.monotonic() - start_s

    def finish(self, num_tokens: int) -> None:
        """Report the end of the claimed jobs."""
        for claim in self._claims:
            usage = Usage(prompt_tokens=len(claim.spec.prompt_ids), completion_tokens=num_tokens)
            outcome = Outcome(status=JobStatus.SUCCEEDED, finish_reason=FinishReason.LENGTH, usage=usage)
            self._live.jobs.finish(claim, outcome)
        self._claims.clear()

    def _beat(self) -> None:
        while not self._stopping.wait(1.0):
            self._live.fleet.beat_gpu(self._gpu.id, self._WORKER, [*self._held, *self._claims], {})
