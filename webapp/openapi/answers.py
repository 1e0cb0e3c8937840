"""Forms of the native API's answers, for its description; tests hold every answer that they get against it.

Fields may be added, never taken away: clients ignore what they do not know.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel

from sllm_tasks.cluster import GpuState, ReplicaState, Tier
from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import Exactness, FinishReason, JobPhase, JobStatus, StartKind
from sllm_tasks.ledger.keys import Scope
from sllm_tasks.ledger.states import AttemptExit, ModelState, OperationStatus, Role, WebhookEvent
from sllm_tasks.migration.states import MigrationState

# Any: JSON of the user's, of an engine, or that depends on the kind of an operation.
_Json = dict[str, Any]
_Time = AwareDatetime | None


class Answer(BaseModel):
    """Whatever the server sends."""


class FieldProblem(Answer):
    """What is wrong with one field."""

    pointer: str
    detail: str
    code: str


class Problem(Answer):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: ErrorCode
    request_id: str


class InvalidFields(Problem):
    """An error that may name fields."""

    errors: list[FieldProblem] = []


class Failure(Answer):
    """Why something did not work."""

    code: ErrorCode
    message: str | None


class JobFailure(Failure):
    """Why a job did not succeed."""

    retryable: bool
    attempts: int


class Output(Answer):
    """What a job has produced."""

    text: str
    finish_reason: FinishReason | None


class TokenUsage(Answer):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int


class Progress(Answer):
    """How far a job is."""

    done: int
    total: int
    unit: Literal["tokens"]


class Placed(Answer):
    """Where a job runs or ran last."""

    node: str
    gpus: list[int]
    start_kind: StartKind | None


class Promise(Answer):
    """How exact the continuation of a job is."""

    asked: Exactness
    achieved: Exactness | None


class Timings(Answer):
    """How long each part took, in ms."""

    queued: int | None
    placing: int | None
    loading: int | None
    first_token: int | None
    total: int | None


class Job(Answer):
    """A job."""

    id: str
    object: Literal["job"]
    client_id: str | None
    status: JobStatus
    status_reason: str | None
    phase: JobPhase | None
    model: str
    checkpoint: str
    priority: int
    attempt: int
    max_attempts: int
    progress: Progress
    loading: _Json | None
    assignment: Placed | None
    exactness: Promise
    params: _Json
    output: Output | None
    usage: TokenUsage | None
    error: JobFailure | None
    migrations: int
    timings_ms: Timings
    metadata: dict[str, str]
    created_at: AwareDatetime
    started_at: _Time
    completed_at: _Time
    deadline_at: _Time
    expires_at: _Time
    links: dict[str, str]


class JobResult(Answer):
    """What a job has produced, and nothing else."""

    id: str
    object: Literal["job.result"]
    exactness: Exactness | None
    output: Output | None
    usage: TokenUsage | None


class NotYet(Answer):
    """A result that is yet to come."""

    id: str
    status: JobStatus


class Attempt(Answer):
    """One try of a job."""

    attempt: int
    node: str
    gpus: list[int]
    worker: str
    replica: str
    start_kind: StartKind
    started_at: AwareDatetime
    ended_at: _Time
    exit_reason: AttemptExit | None
    tokens: int


class Deployment(Answer):
    """The deployment of a model that was asked for last."""

    operation: str
    state: OperationStatus
    error: Failure | None
    progress: _Json | None
    source: str


class Model(Answer):
    """What can be asked for."""

    id: str
    object: Literal["model"]
    state: ModelState
    error: str | None
    source: str
    checkpoint: str | None
    engine: str
    dtype: str
    exactness: Exactness
    num_gpus: int
    max_jobs: int
    context: int
    keep_alive_s: float | Literal["auto"]
    min_replicas: int
    max_replicas: int
    weights_bytes: int
    kv_bytes_per_token: int
    bytes_per_gpu: int
    deployment: Deployment | None
    version: int
    created_at: AwareDatetime
    updated_at: AwareDatetime


class Checkpoint(Answer):
    """A stored checkpoint."""

    id: str
    object: Literal["checkpoint"]
    source: str
    architecture: str
    dtype: str
    num_bytes: int
    num_parameters: int
    num_partitions: int
    models: list[str]
    created_at: AwareDatetime


class Operation(Answer):
    """Administrative work that takes a while."""

    id: str
    object: Literal["operation"]
    kind: str
    target: str
    status: OperationStatus
    progress: _Json | None
    result: _Json | None
    error: Failure | None
    node: str | None
    attempts: int
    requested_by: str
    created_at: AwareDatetime
    started_at: _Time
    ended_at: _Time


class Placement(Answer):
    """Where a checkpoint should be and is, on one node."""

    id: str
    object: Literal["placement"]
    checkpoint: str
    node: str
    desired: Tier | None
    actual: Tier | None
    pinned: bool
    met: bool
    operation: str | None
    error: Failure | None
    retry_at: _Time
    updated_at: AwareDatetime


class PlacementProposal(Answer):
    """A placement that should change."""

    id: str
    object: Literal["placement_proposal"]
    checkpoint: str
    node: str
    desired: Tier | None
    proposed: Tier | None


class TierState(Answer):
    """A tier of a node."""

    capacity_bytes: int | None
    used_bytes: int | None
    error: str | None
    bytes_per_s: float | None
    measured_at: _Time


class LoadedReplica(Answer):
    """A replica on a gpu."""

    id: str
    model: str
    checkpoint: str
    state: ReplicaState
    gpus: list[str]
    bytes_per_gpu: int
    num_jobs: int
    max_jobs: int
    engine: str


class NodeGpu(Answer):
    """A gpu of a node."""

    id: str
    index: int
    state: GpuState
    device: str
    worker: str
    capacity_bytes: int
    reserved_bytes: int
    stats: _Json
    replicas: list[LoadedReplica]


class Node(Answer):
    """A server."""

    id: str
    object: Literal["node"]
    agent: Literal["up", "down"]
    url: str | None
    checkpoints: list[str]
    in_dram: list[str]
    tiers: dict[str, TierState]
    gpus: list[NodeGpu]


class Queue(Answer):
    """The jobs that wait for a model, or for any (`*`)."""

    id: str
    object: Literal["queue"]
    paused: bool
    paused_by: str | None
    paused_at: _Time
    depth: int
    oldest_age_ms: int | None


class Tenant(Answer):
    """What holds for a tenant."""

    id: str
    object: Literal["tenant"]
    weight: float
    max_queued_jobs: int | None
    max_running_jobs: int | None
    max_requests_per_min: int | None
    max_tokens_per_min: int | None
    created_at: AwareDatetime


class Key(Answer):
    """An API key without its secret."""

    id: str
    object: Literal["key"]
    name: str
    tenant: str
    scopes: list[Scope]
    created_at: AwareDatetime
    last_used_at: _Time
    revoked_at: _Time


class MadeKey(Key):
    """An API key with its secret; null when the request was made before."""

    key: str | None


class User(Answer):
    """A user of the admin UI."""

    id: str
    object: Literal["user"]
    role: Role
    has_password: bool
    created_at: AwareDatetime
    signed_in_at: _Time
    disabled_at: _Time


class InvitedUser(User):
    """A user with the link by which they set a password."""

    link: str


class ExpectedMove(Answer):
    """What a move was expected to take when it began."""

    ms: int
    pause_ms: int


class Migration(Answer):
    """A move of a running job."""

    id: str
    object: Literal["migration"]
    job_id: str
    state: MigrationState
    reason: str
    source: list[str]
    target: list[str]
    num_bytes: int | None
    predicted: ExpectedMove | None
    pause_ms: float | None
    error: str | None


class Webhook(Answer):
    """Where a tenant hears about its jobs."""

    id: str
    object: Literal["webhook"]
    tenant: str
    url: str
    events: list[WebhookEvent]
    enabled: bool
    failing_since: _Time
    disabled_at: _Time
    disabled_reason: str | None
    created_at: AwareDatetime


class MadeWebhook(Webhook):
    """A webhook with its secret; null when the request was made before."""

    secret: str | None


class WebhookSecret(Answer):
    """What signs messages to URLs that jobs bring themselves."""

    object: Literal["webhook.secret"]
    tenant: str
    secret: str


class Delivery(Answer):
    """A message and what has become of it."""

    id: str
    object: Literal["delivery"]
    webhook: str | None
    tenant: str
    job: str | None
    event: str
    url: str
    status: str
    attempts: int
    http_status: int | None
    error: str | None
    created_at: AwareDatetime
    attempted_at: _Time
    next_attempt_at: _Time


class Explanation(Answer):
    """What the router would do for a job that came now."""

    object: Literal["explanation"]
    model: str
    prompt_tokens: int
    choice: _Json
    candidates: list[_Json]
    accuracy: _Json | None


class Decision(Answer):
    """What the router chose for an attempt of a job."""

    id: str
    object: Literal["decision"]
    job_id: str
    attempt: int
    path: str
    choice: _Json
    candidates: list[_Json]
    predicted_s: float | None
    actual_s: float | None
    created_at: AwareDatetime


class Health(Answer):
    """That the process answers."""

    status: str
