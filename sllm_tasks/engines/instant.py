"""An engine without a model: it echoes the prompt, one token per job and step, as fast as it is polled.

It is shipped for tests and for benchmarks of everything around an engine. It follows the whole protocol, so what
works with it works with a real engine; it imports neither torch nor transformers.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from sllm_tasks.engines.base import (
    CheckpointLoader,
    EngineError,
    EngineEvent,
    EngineFailure,
    EngineLimits,
    EnginePrefilled,
    EngineRequest,
    EngineStats,
    EngineToken,
)
from sllm_tasks.engines.finish import check_request, end_token_ids, finish_reason
from sllm_tasks.jobs import EqualityClass, Exactness


@dataclass(slots=True)
class _InstantJob:
    request: EngineRequest
    token_ids: list[int]

    @property
    def num_output(self) -> int:
        return len(self.token_ids) - self.request.num_prompt_tokens

    def step(self, context: int) -> EngineToken:
        index = self.num_output
        token_id = self.request.token_ids[index % self.request.num_prompt_tokens]
        self.token_ids.append(token_id)
        params = self.request.params
        return EngineToken(
            job_id=self.request.job_id,
            index=index,
            token_id=token_id,
            logprob=None if params.logprobs is None else 0.0,
            finish_reason=finish_reason(
                params,
                end_token_ids(params, frozenset()),
                token_id=token_id,
                num_output=self.num_output,
                num_tokens=len(self.token_ids),
                context=context,
            ),
        )


class InstantEngine:
    """Answers every job with its own prompt, again and again, until `max_tokens` or the context ends it."""

    def __init__(self) -> None:
        # All below is guarded by `_lock`; a step holds it, since a step here costs microseconds.
        self._lock = threading.Lock()
        self._limits: EngineLimits | None = None
        self._jobs: dict[str, _InstantJob] = {}
        # Answers to `prefill` that the next poll gives.
        self._prefilled: dict[str, EnginePrefilled] = {}

    def load(
        self,
        checkpoint: Path,  # noqa: ARG002
        devices: tuple[str, ...],  # noqa: ARG002
        limits: EngineLimits,
        load: CheckpointLoader | None = None,  # noqa: ARG002
    ) -> None:
        """Take the limits; nothing is read from `checkpoint`."""
        with self._lock:
            self._limits = limits

    def submit(self, request: EngineRequest) -> None:
        """Queue a job for the next step."""
        with self._lock:
            self._require_limits()
            self._prefilled.pop(request.job_id, None)
            self._jobs[request.job_id] = _InstantJob(request, list(request.token_ids))

    def prefill(self, request: EngineRequest) -> None:
        """Remember nothing: an echo needs no tokens but those of `submit`."""
        with self._lock:
            self._require_limits()
            num_tokens = len(request.token_ids)
            self._prefilled[request.job_id] = EnginePrefilled(job_id=request.job_id, num_tokens=num_tokens)

    def abort(self, job_id: str) -> None:
        """Forget a job at once."""
        with self._lock:
            self._jobs.pop(job_id, None)
            self._prefilled.pop(job_id, None)

    def poll(self) -> list[EngineEvent]:
        """Give every running job one token."""
        with self._lock:
            if not self._jobs and not self._prefilled:
                return []
            limits = self._require_limits()
            answers = list[EngineEvent](self._prefilled.values())
            self._prefilled.clear()
            return answers + [self._step(job, limits) for job in list(self._jobs.values())[: limits.max_jobs]]

    def _step(self, job: _InstantJob, limits: EngineLimits) -> EngineEvent:
        job_id = job.request.job_id
        # Only a job that has produced nothing here can be unfit: every later step was checked by the one before.
        if len(job.token_ids) == len(job.request.token_ids) and (why := check_request(job.request, limits)):
            del self._jobs[job_id]
            return EngineFailure(job_id=job_id, message=why)
        token = job.step(limits.context)
        if token.finish_reason is not None:
            del self._jobs[job_id]
        return token

    def _require_limits(self) -> EngineLimits:
        if self._limits is None:
            raise EngineError("the engine has no model loaded")
        return self._limits

    @property
    def has_work(self) -> bool:
        """Whether `poll` would do something."""
        return bool(self._jobs or self._prefilled)

    def snapshot(self) -> dict[str, tuple[int, ...]]:
        """Token ids (prompt and output) of every job it holds."""
        with self._lock:
            return {job_id: tuple(job.token_ids) for job_id, job in self._jobs.items()}

    def stats(self) -> EngineStats:
        """Figures as if tokens took KV memory."""
        with self._lock:
            max_jobs = self._limits.max_jobs if self._limits else 0
            context = self._limits.context if self._limits else 0
            num_running = min(len(self._jobs), max_jobs)
            running = list(self._jobs.values())[:num_running]
            return EngineStats(
                num_running=num_running,
                num_waiting=len(self._jobs) - num_running,
                num_kv_tokens=sum(len(job.token_ids) for job in running),
                max_kv_tokens=max_jobs * context,
            )

    def eos_token_ids(self) -> frozenset[int]:
        """No id ends a job by itself."""
        return frozenset()

    def equality_class(self) -> EqualityClass:
        """An echo has no logits, so it promises no more than tokens."""
        return EqualityClass(exactness=Exactness.TOKEN, fingerprint="instant")

    def unload(self) -> None:
        """Forget the limits and every job; idempotent."""
        with self._lock:
            self._limits = None
            self._jobs.clear()
            self._prefilled.clear()
