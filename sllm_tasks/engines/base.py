"""The engine protocol: token ids in, token ids out; text, queues and state are somebody else's.

An engine holds one loaded model. One thread drives it: `poll` performs at most one step (some prefill, then one
token for every running job) and returns what came of it. `submit` and `abort` may be called from any thread; they
only leave a note which the next `poll` reads. Engines are found by name through the entry point group `sllm.engines`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sllm_tasks.errors import SllmError
from sllm_tasks.jobs import EqualityClass, FinishReason, SamplingParams

if TYPE_CHECKING:
    from loaders.checkpoint import LoadedCheckpoint


class EngineError(SllmError):
    """An engine could not do what it was asked to."""


class DeviceLostError(EngineError):
    """A device does nothing more for this process, which has to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What is fixed when a model is loaded, so that memory is known before the first job."""

    #: Jobs decoded together.
    max_jobs: int
    #: Prompt plus output tokens of one job.
    context: int
    #: Prompt tokens prefilled between two decode steps, so that running jobs keep moving.
    prefill_tokens_per_step: int = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """A job as an engine sees it."""

    job_id: str
    #: Prompt, followed by the `num_emitted` tokens that earlier attempts have already produced.
    token_ids: tuple[int, ...]
    params: SamplingParams
    num_emitted: int = 0

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the prompt alone."""
        return len(self.token_ids) - self.num_emitted


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineToken:
    """One new token of one job; the last one of a job carries the reason."""

    job_id: str
    #: Counts from 0 over all attempts of the job.
    index: int
    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFailure:
    """A job (never the whole engine) that the engine had to give up."""

    job_id: str
    message: str
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePrefilled:
    """All tokens of `prefill` are in, but for the last one, with which decoding will begin."""

    job_id: str
    num_tokens: int


EngineEvent = EngineToken | EngineFailure | EnginePrefilled


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine is doing now."""

    num_running: int
    num_waiting: int
    #: KV tokens held and the limit of them.
    num_kv_tokens: int
    max_kv_tokens: int


class CheckpointLoader(Protocol):
    """Reads a checkpoint to the engine's device; `loaders.checkpoint.load` is one for the CPU."""

    def __call__(self, path: Path, *, with_model: bool) -> LoadedCheckpoint:
        """Raises LoaderError."""


class Engine(Protocol):
    """See the module's docstring for the threading rule."""

    def load(
        self, checkpoint: Path, devices: tuple[str, ...], limits: EngineLimits, load: CheckpointLoader | None = None
    ) -> None:
        """Load a checkpoint directory, by `load` if that is given.

        Raises ModelUnusableError, OutOfMemoryError, or StaleError when the load was canceled, and keeps nothing then.
        """

    def submit(self, request: EngineRequest) -> None:
        """Queue a job for the next step; one that begins with what `prefill` took has little left to read."""

    def prefill(self, request: EngineRequest) -> None:
        """Read the tokens of a job that is decoded elsewhere; again with more of them, until `submit` or `abort`.

        An EnginePrefilled follows each call. The job takes the room of a running one.
        """

    def abort(self, job_id: str) -> None:
        """Forget a job by the next step; unknown ids are ignored."""

    def poll(self) -> list[EngineEvent]:
        """Perform at most one step; an empty list when there is nothing to do. Never blocks for longer than a step.

        A step may pause at a first token: the next call goes on with it.
        """

    @property
    def has_work(self) -> bool:
        """Whether `poll` would do something."""

    def snapshot(self) -> dict[str, tuple[int, ...]]:
        """Token ids (prompt and output) of every job it holds."""

    def stats(self) -> EngineStats:
        """Figures for heartbeats and metrics."""

    def eos_token_ids(self) -> frozenset[int]:
        """Ids that end a job, from the model's generation settings."""

    def equality_class(self) -> EqualityClass:
        """What the loaded model promises about continuations."""

    def unload(self) -> None:
        """Free the model and every job; idempotent."""
