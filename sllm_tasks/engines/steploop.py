"""The default engine: continuous batching over `model.forward`, for any causal language model of transformers.

Each step feeds up to `prefill_tokens_per_step` prompt tokens of waiting jobs, then one token of every running job. It
pauses at each first token, which is handed out at once.
A job's prompt goes through the model alone, so what happens to it there (no memory, say) happens to it alone.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
from sllm_tasks.engines.batch_model import BatchModel
from sllm_tasks.engines.device_errors import is_out_of_memory, raise_if_lost
from sllm_tasks.engines.finish import check_request, end_token_ids
from sllm_tasks.engines.forward import ForwardModel
from sllm_tasks.engines.loading import MODEL_ERRORS, LoadedModel, load_model, release_memory
from sllm_tasks.engines.reading import ReadingPace
from sllm_tasks.engines.sampling import Choice, choose
from sllm_tasks.engines.step_job import StepJob
from sllm_tasks.jobs import EqualityClass

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    #: What a prompt on its way looks like is the model's own business.
    model: BatchModel[Any]
    limits: EngineLimits
    devices: tuple[str, ...]


@dataclass(slots=True)
class _Step:
    """A step that has begun: a poll goes on with it until it has decoded."""

    #: Prompt tokens that may still be fed.
    budget: int
    seconds: float = 0.0


class StepLoopEngine:
    """See the module's docstring, and `base` for the protocol and its threading rule."""

    def __init__(self) -> None:
        self._loaded: _Loaded | None = None
        # The one table that threads share: jobs by id, in the order they came. `_lock` guards it, never a step.
        self._lock = threading.Lock()
        self._jobs: dict[str, StepJob] = {}
        # Only the engine's thread: the job of each row of the batch.
        self._rows: list[StepJob] = []
        # Only the engine's thread: jobs whose prompts are partly in the model; one at most, but for aborted ones.
        self._arriving: list[StepJob] = []
        self._pace = ReadingPace()
        # Only the engine's thread: the step that paused after a first token.
        self._paused: _Step | None = None

    def load(
        self, checkpoint: Path, devices: tuple[str, ...], limits: EngineLimits, load: CheckpointLoader | None = None
    ) -> None:
        """Load a checkpoint on devices, `cpu` or `cuda:<i>`: several share its layers."""
        if self._loaded is not None:
            raise EngineError("the engine has a model already")
        self._loaded = _Loaded(load_model(checkpoint, devices, limits, load, self._make), limits, devices)

    def _make(self, loaded: LoadedModel, limits: EngineLimits) -> BatchModel[Any]:
        """Decide how the loaded model computes."""
        return ForwardModel(loaded, limits)

    def submit(self, request: EngineRequest) -> None:
        """Queue a job for the next step."""
        with self._lock:
            self._add(request).is_read_only = False

    def prefill(self, request: EngineRequest) -> None:
        """Read the tokens of a job that is decoded elsewhere."""
        with self._lock:
            job = self._add(request, is_read_only=True)
            job.is_answered = False

    def _add(self, request: EngineRequest, *, is_read_only: bool = False) -> StepJob:
        """Go on with what `prefill` has read of a job, or begin anew if it is not how the job goes on."""
        end_ids = end_token_ids(request.params, self._require().model.eos_token_ids)
        job = self._jobs.get(request.job_id)
        if job is not None and not job.is_read_only:
            raise EngineError(f"job {request.job_id} is here already")
        if job is not None and tuple(job.token_ids) == request.token_ids[: len(job.token_ids)]:
            job.token_ids += request.token_ids[len(job.token_ids) :]
            job.request = request
            return job
        if job is not None:
            job.aborted = True
        job = StepJob(request, end_ids, list(request.token_ids), is_read_only=is_read_only)
        self._jobs[request.job_id] = job
        return job

    def abort(self, job_id: str) -> None:
        """Forget a job; steps that begin after this call return nothing of it."""
        with self._lock:
            job = self._jobs.pop(job_id, None)
        if job is not None:
            # Its row is freed by the engine's thread, at the beginning of the next step.
            job.aborted = True

    def poll(self) -> list[EngineEvent]:
        """Perform one step, or go on with it, to the next first token."""
        if self._loaded is None:
            return []
        for job in [job for job in self._rows if job.aborted]:
            self._leave(job)
        for job in [job for job in self._arriving if job.aborted]:
            self._stop_arriving(self._loaded, job)
        # With nobody to decode for, the rest of a step that paused is no less than a whole one.
        step = self._paused if self._rows else None
        step = step or self._begin_step(self._loaded.limits.prefill_tokens_per_step)
        began_s = time.monotonic()
        events = self._prefill_step(self._loaded, step)
        self._paused = step if any(isinstance(event, EngineToken) for event in events) else None
        if self._paused is None:
            events += self._decode_step(self._loaded)
        step.seconds += time.monotonic() - began_s
        if self._paused is None:
            self._pace.end_step(step.seconds)
        return events

    def _begin_step(self, budget: int) -> _Step:
        self._pace.begin_step(budget, others_decode=bool(self._rows))
        return _Step(budget)

    @property
    def has_work(self) -> bool:
        """Whether `poll` would do something."""
        if self._rows:
            return True
        with self._lock:
            return any(not job.is_read_only or not job.is_answered for job in self._jobs.values())

    def snapshot(self) -> dict[str, tuple[int, ...]]:
        """Token ids (prompt and output) of every job it holds."""
        with self._lock:
            return {job_id: tuple(job.token_ids) for job_id, job in self._jobs.items()}

    def stats(self) -> EngineStats:
        """Figures for heartbeats and metrics."""
        loaded, num_running = self._loaded, len(self._rows)
        if loaded is None:
            return EngineStats(num_running=0, num_waiting=0, num_kv_tokens=0, max_kv_tokens=0)
        return EngineStats(
            num_running=num_running,
            num_waiting=max(0, len(self._jobs) - num_running),
            num_kv_tokens=loaded.model.num_tokens,
            max_kv_tokens=loaded.limits.max_jobs * loaded.limits.context,
        )

    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end a job."""
        return self._require().model.eos_token_ids

    def equality_class(self) -> EqualityClass:
        """What the loaded model promises about continuations."""
        return self._require().model.equality_class

    def unload(self) -> None:
        """Free the model and every job; idempotent."""
        with self._lock:
            self._jobs.clear()
        self._rows.clear()
        self._arriving.clear()
        self._paused = None
        if self._loaded is not None:
            self._loaded.model.free()
        self._loaded = None
        release_memory()

    def _require(self) -> _Loaded:
        if self._loaded is None:
            raise EngineError("the engine has no model loaded")
        return self._loaded

    def _waiting(self) -> list[StepJob]:
        running = {id(job) for job in self._rows}
        with self._lock:
            return [job for job in self._jobs.values() if id(job) not in running]

    def _prefill_step(self, loaded: _Loaded, step: _Step) -> list[EngineEvent]:
        """Spend the step's budget on waiting jobs, first come first served, until one of them has its first token."""
        events: list[EngineEvent] = []
        for job in self._waiting():
            if step.budget <= 0 or any(isinstance(event, EngineToken) for event in events):
                break
            if job.prefill is None and len(self._rows) + len(self._arriving) >= loaded.limits.max_jobs:
                # What is here already goes on, whoever waits before it.
                continue
            num_tokens = min(step.budget, job.num_unread)
            if job.is_read_only:
                num_tokens = min(num_tokens, self._pace.left)
                self._pace.left -= num_tokens
            if num_tokens > 0:
                step.budget -= num_tokens
                events += self._prefill(loaded, job, num_tokens)
            events += self._answer(job)
        return events

    def _answer(self, job: StepJob) -> list[EngineEvent]:
        """Say that all that `prefill` was last called with is read, once."""
        with self._lock:
            if not job.is_read_only or job.is_answered or job.num_unread > 0:
                return []
            job.is_answered = True
            return [EnginePrefilled(job_id=job.request.job_id, num_tokens=len(job.token_ids))]

    def _prefill(self, loaded: _Loaded, job: StepJob, num_tokens: int) -> list[EngineEvent]:
        why = check_request(job.request, loaded.limits) or _unknown_token(job.request, loaded.model.vocab_size)
        if why is not None:
            # It may have grown since the first part of it was read.
            self._stop_arriving(loaded, job)
            return [self._fail(job, why)]
        try:
            if job.prefill is None:
                job.prefill = loaded.model.begin()
                self._arriving.append(job)
            seen = job.prefill.num_tokens
            logits = loaded.model.prefill(job.prefill, job.token_ids[seen : seen + num_tokens])
            if seen + num_tokens < len(job.token_ids):
                return []
            return [self._start(loaded, job, self._choose(logits, [job])[0])]
        except MODEL_ERRORS as error:
            raise_if_lost(error, loaded.devices)
            self._stop_arriving(loaded, job)
            return [self._fail(job, f"prefill failed: {error}", out_of_memory=is_out_of_memory(error))]

    def _start(self, loaded: _Loaded, job: StepJob, choice: Choice) -> EngineToken:
        """Take a job's first token and, unless it is the last as well, make it a row of the batch."""
        token = job.take(choice, loaded.limits.context)
        if token.finish_reason is None:
            loaded.model.join(job.prefill)
            self._rows.append(job)
            self._arriving.remove(job)
            job.prefill = None
        else:
            self._stop_arriving(loaded, job)
            self._forget(job)
        return token

    def _stop_arriving(self, loaded: _Loaded, job: StepJob) -> None:
        if job in self._arriving:
            self._arriving.remove(job)
            loaded.model.discard(job.prefill)
            job.prefill = None

    def _decode_step(self, loaded: _Loaded) -> list[EngineEvent]:
        if not self._rows:
            return []
        rows = list(self._rows)
        try:
            logits = loaded.model.decode([job.token_ids[-1] for job in rows])
            choices = self._choose(logits, rows)
            loaded.model.commit()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            # The longest job needs most; without it the next step may succeed for all others.
            longest = max(rows, key=lambda job: len(job.token_ids))
            self._leave(longest)
            return [self._fail(longest, f"decode failed: {error}", out_of_memory=True)]
        events: list[EngineEvent] = []
        for job, choice in zip(rows, choices, strict=True):
            token = job.take(choice, loaded.limits.context)
            events.append(token)
            if token.finish_reason is not None:
                self._leave(job)
                self._forget(job)
        return events

    def _choose(self, logits: torch.Tensor, jobs: list[StepJob]) -> list[Choice]:
        """Choose a token per job; overridden where logits are watched."""
        return choose(logits, [job.draw for job in jobs])

    def _leave(self, job: StepJob) -> None:
        """Free a job's row; as in the batch, the last row takes its number."""
        row = self._rows.index(job)
        self._require().model.leave(row)
        self._rows[row] = self._rows[-1]
        self._rows.pop()

    def _forget(self, job: StepJob) -> None:
        with self._lock:
            self._jobs.pop(job.request.job_id, None)

    def _fail(self, job: StepJob, message: str, *, out_of_memory: bool = False) -> EngineFailure:
        self._forget(job)
        _log.warning("job %s given up: %s", job.request.job_id, message)
        return EngineFailure(job_id=job.request.job_id, message=message, out_of_memory=out_of_memory)


def _unknown_token(request: EngineRequest, vocab_size: int) -> str | None:
    """Explain which token the model does not have: on a GPU, looking it up would end the whole process."""
    if min(request.token_ids) >= 0 and max(request.token_ids) < vocab_size:
        return None
    return f"a token id is not between 0 and {vocab_size - 1}"
