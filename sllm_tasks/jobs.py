"""What a job is: its states and their one transition table, its parameters, its tokens and its outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.errors import ErrorCode, InvalidTransitionError


class JobStatus(StrEnum):
    """Where a job stands, for machines; the set is closed."""

    #: Accepted: its row is committed. It waits for a place or for a worker to claim it.
    QUEUED = "queued"
    #: A worker has claimed it and loads or prefills.
    STARTING = "starting"
    #: Its first token exists.
    RUNNING = "running"
    #: Its user asked to stop it and the worker has not stopped yet.
    CANCELING = "canceling"
    #: It ended with the text its parameters asked for.
    SUCCEEDED = "succeeded"
    #: It ended with an error; partial text is kept.
    FAILED = "failed"
    #: It was stopped by its user, or by its deadline after its first token.
    CANCELED = "canceled"
    #: Its deadline passed before its first token.
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow."""
        return not JOB_TRANSITIONS[self]


#: Every change of status that may happen; whatever is not here is a bug.
JOB_TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset(
        {JobStatus.STARTING, JobStatus.CANCELING, JobStatus.CANCELED, JobStatus.EXPIRED, JobStatus.FAILED}
    ),
    # Back to QUEUED: the worker died or handed the job back.
    JobStatus.STARTING: frozenset(
        {
            JobStatus.QUEUED,
            JobStatus.RUNNING,
            JobStatus.CANCELING,
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.CANCELED,
            JobStatus.EXPIRED,
        }
    ),
    JobStatus.RUNNING: frozenset(
        {JobStatus.QUEUED, JobStatus.CANCELING, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED}
    ),
    # SUCCEEDED: the job reached its end before the worker saw the wish to cancel.
    JobStatus.CANCELING: frozenset({JobStatus.CANCELED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.EXPIRED}),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELED: frozenset(),
    JobStatus.EXPIRED: frozenset(),
}

TERMINAL_STATUSES = frozenset(status for status in JobStatus if status.is_terminal)
ACTIVE_STATUSES = frozenset(JobStatus) - TERMINAL_STATUSES


class JobPhase(StrEnum):
    """What an active job is doing, for people."""

    WAITING_GPU = "waiting_gpu"
    PLACING = "placing"
    LOADING = "loading"
    PREFILL = "prefill"
    DECODING = "decoding"
    MIGRATING = "migrating"
    FINISHING = "finishing"


class StartKind(StrEnum):
    """Where the weights were when an attempt started."""

    WARM = "warm"
    COLD_DRAM = "cold_dram"
    COLD_SSD = "cold_ssd"
    COLD_REMOTE = "cold_remote"
    MIGRATED = "migrated"


class FinishReason(StrEnum):
    """Why decoding stopped."""

    #: An end-of-sequence token, a stop id or a stop string.
    STOP = "stop"
    #: `max_tokens` or the context was reached.
    LENGTH = "length"
    CANCELED = "canceled"


class Exactness(StrEnum):
    """What is promised about a continuation after a retry or a migration."""

    #: The same tokens within one class (dtype, device type, library build); certain in fp32.
    TOKEN = "token"  # noqa: S105 - a level, not a secret
    #: Bit-equal logits by canonical shapes.
    EXACT = "exact"


#: The engine that decodes exactly what another one decodes at level `token`.
_EXACT_ENGINES: Mapping[str, str] = {"steploop": "exact", "exact": "exact"}


def can_be_exact(engine: str) -> bool:
    """Whether models of an engine can be served at level `exact`."""
    return engine in _EXACT_ENGINES


def engine_at(engine: str, exactness: Exactness) -> str:
    """Name the engine that serves a model of `engine` at a level; raises KeyError if there is none."""
    return _EXACT_ENGINES[engine] if exactness is Exactness.EXACT else engine


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualityClass:
    """What a replica promises about continuations, and which other replicas can keep the promise."""

    exactness: Exactness
    #: Equal ones mean: the same weights, device type, dtype and libraries, and at level `exact` the same trial results.
    fingerprint: str
    #: Why it is not `exact` although it was to be; "" when there is nothing to explain.
    downgrade: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are drawn; the seed is always set, so that a draw never depends on anything else."""

    max_tokens: int
    seed: int
    #: 0 is greedy.
    temperature: float = 0.0
    top_p: float = 1.0
    #: 0 keeps the whole vocabulary.
    top_k: int = 0
    #: Text that ends the job and is not part of its output.
    stop: tuple[str, ...] = ()
    #: Token ids that end the job besides the model's own end-of-sequence ids.
    stop_token_ids: tuple[int, ...] = ()
    #: Decode past end-of-sequence ids, for measurements.
    ignore_eos: bool = False
    #: None: no log probabilities; n ≥ 0: of the chosen token and of the n likeliest.
    logprobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """Everything a worker needs to run a job; lives in the live state, rebuilt from the ledger when that is lost."""

    job_id: str
    tenant: str
    model: str
    checkpoint: str
    #: Of the replicas it may run on: what its model had when it was accepted.
    shape: ReplicaShape
    prompt_ids: tuple[int, ...]
    params: SamplingParams
    priority: int = 5
    job_class: str = "interactive"
    #: Cluster time in ms at which the job was accepted; orders waiting jobs of one priority.
    created_ms: int = 0
    #: Cluster time in ms after which the job is expired or cancelled.
    deadline_ms: int | None = None
    exactness: Exactness = Exactness.TOKEN
    traceparent: str | None = None
    #: Of the request that brought it, for logs.
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """One emitted token; `index` counts from 0 over all attempts of the job."""

    index: int
    token_id: int
    #: Text that became certain with this token; may be empty (half a character, a possible stop string).
    text: str
    logprob: float | None = None
    #: The likeliest tokens at this position, best first, as (token id, log probability).
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of a job."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why a job did not succeed."""

    code: ErrorCode
    message: str
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended, as the worker (or the sweeper) reports it; the ledger decides whether it counts."""

    status: JobStatus
    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: JobError | None = None
    #: Per token, when asked for.
    logprobs: tuple[TokenRecord, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.status.is_terminal:
            raise InvalidTransitionError(f"an outcome cannot be {self.status}")
