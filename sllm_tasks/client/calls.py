"""Every request of the client as a value: what to send and how to read the answer. No input or output happens here."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

from sllm_tasks.client.records import (
    JobPage,
    JobRecord,
    Json,
    OperationRecord,
    decode_job,
    decode_job_page,
    decode_list,
    decode_operation,
)

_Answer = TypeVar("_Answer")

JOBS = "/api/v1/jobs"
#: The longest time that the server is asked to hold an answer back, in seconds.
MAX_WAIT_S = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[_Answer]):
    """A request; sending it twice must have the effect of sending it once."""

    method: str
    path: str
    decode: Callable[[Json], _Answer]
    params: Mapping[str, str | int] = field(default_factory=dict)
    json: Json | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    #: For how long the server was asked to hold its answer back, in seconds.
    wait_s: int = 0

    @property
    def all_headers(self) -> dict[str, str]:
        """Its own headers and those of its body."""
        return {**({} if self.json is None else {"Content-Type": "application/json"}), **self.headers}


class JobSettings(TypedDict, total=False):
    """What may be said about a job; what is left out, or None, is left to the server."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    seed: int | None
    stop: Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    logprobs: int | None
    #: 9 goes first.
    priority: int | None
    job_class: Literal["interactive", "batch"] | None
    deadline_s: float | None
    result_ttl_s: int | None
    #: `exact`: bit-equal logits after retries and migrations.
    exactness: Literal["token", "exact"] | None
    metadata: Mapping[str, str] | None


#: Settings of the job rather than of its sampling, and what the server calls them.
_JOB_FIELDS: Final = {
    "priority": "priority",
    "job_class": "class",
    "deadline_s": "deadline_s",
    "result_ttl_s": "result_ttl_s",
    "exactness": "exactness",
    "metadata": "metadata",
}


def submit_job(
    model: str,
    prompt: str | None,
    messages: Sequence[Mapping[str, str]] | None,
    idempotency_key: str | None,
    settings: JobSettings,
) -> Call[JobRecord]:
    """Submit a job; without a key of the caller's it gets one, so that a repetition after a lost answer is harmless."""
    given = {name: value for name, value in settings.items() if value is not None}
    return Call(
        method="POST",
        path=JOBS,
        json={
            "model": model,
            "input": {"prompt": prompt} if messages is None else {"messages": [dict(turn) for turn in messages]},
            "params": {name: value for name, value in given.items() if name not in _JOB_FIELDS},
            **{_JOB_FIELDS[name]: value for name, value in given.items() if name in _JOB_FIELDS},
        },
        headers=_once(idempotency_key),
        decode=decode_job,
    )


def get_job(job_id: str, *, wait_s: float = 0) -> Call[JobRecord]:
    """Read a job; with `wait_s` at its next change of status."""
    whole_s = min(MAX_WAIT_S, max(1, round(wait_s))) if wait_s > 0 else 0
    return Call(
        method="GET",
        path=f"{JOBS}/{quote(job_id, safe='')}",
        headers={"Prefer": f"wait={whole_s}"} if whole_s else {},
        wait_s=whole_s,
        decode=decode_job,
    )


def list_jobs(
    *, status: str | None, model: str | None, created_after: str | None, limit: int, after: str | None
) -> Call[JobPage]:
    """List jobs, newest first."""
    wanted = {"status": status, "model": model, "created_after": created_after, "limit": limit, "after": after}
    params = {name: value for name, value in wanted.items() if value is not None}
    return Call(method="GET", path=JOBS, params=params, decode=decode_job_page)


def cancel_job(job_id: str) -> Call[JobRecord]:
    """Stop a job."""
    return Call(method="POST", path=f"{JOBS}/{quote(job_id, safe='')}/cancel", decode=decode_job)


def retry_job(job_id: str) -> Call[JobRecord]:
    """Submit a job that did not succeed once more."""
    return Call(
        method="POST",
        path=f"{JOBS}/{quote(job_id, safe='')}/retry",
        headers=_once(),
        decode=decode_job,
    )


def events_path(job_id: str) -> str:
    """Where the events of a job are."""
    return f"{JOBS}/{quote(job_id, safe='')}/events"


def put_model(name: str, settings: Mapping[str, Any]) -> Call[OperationRecord]:
    """Deploy a model."""
    given = {key: value for key, value in settings.items() if value is not None}
    return Call(method="PUT", path=_model_path(name), json=given, headers=_once(), decode=decode_operation)


def delete_model(name: str) -> Call[OperationRecord]:
    """Stop a model and forget it."""
    return Call(method="DELETE", path=_model_path(name), headers=_once(), decode=decode_operation)


def get_operation(operation_id: str) -> Call[OperationRecord]:
    """Read how far an operation is."""
    return Call(method="GET", path=f"/api/v1/operations/{quote(operation_id, safe='')}", decode=decode_operation)


def get_list(resource: str) -> Call[tuple[Json, ...]]:
    """List a resource that is not paged: models, nodes, placements, queues, keys or users."""
    return Call(method="GET", path=f"/api/v1/{resource}", decode=decode_list)


def get_model(name: str) -> Call[Json]:
    """Read a model."""
    return Call(method="GET", path=_model_path(name), decode=as_it_is)


def put_placement(checkpoint: str, node: str, tier: str, *, pinned: bool) -> Call[Json]:
    """Want a checkpoint in a tier of a node."""
    body = {"tier": tier, "pinned": pinned}
    return Call(method="PUT", path=_placement_path(checkpoint, node), json=body, decode=as_it_is)


def delete_placement(checkpoint: str, node: str) -> Call[Json]:
    """Want a checkpoint not to be on a node."""
    return Call(method="DELETE", path=_placement_path(checkpoint, node), decode=as_it_is)


def apply_proposals() -> Call[tuple[Json, ...]]:
    """Want the placements that are proposed; the answer is what that was."""
    return Call(method="POST", path="/api/v1/placements/proposals", decode=decode_list)


def calibrate_node(node: str) -> Call[OperationRecord]:
    """Measure what the tiers of a node deliver."""
    path = f"/api/v1/nodes/{quote(node, safe='')}/calibrate"
    return Call(method="POST", path=path, headers=_once(), decode=decode_operation)


def explain(model: str, *, prompt_tokens: int) -> Call[Json]:
    """What the router would do for a job that came now, and what else it could."""
    body = {"model": model, "prompt_tokens": prompt_tokens}
    return Call(method="POST", path="/api/v1/scheduler/explain", json=body, decode=as_it_is)


def list_decisions(*, job: str | None, model: str | None, limit: int) -> Call[tuple[Json, ...]]:
    """List the router's decisions, newest first."""
    wanted = {"job": job, "model": model, "limit": limit}
    params = {name: value for name, value in wanted.items() if value is not None}
    return Call(method="GET", path="/api/v1/scheduler/decisions", params=params, decode=decode_list)


def pause_queue(name: str) -> Call[Json]:
    """Start no more jobs of a model, or of any (`*`)."""
    return Call(method="POST", path=f"/api/v1/queues/{quote(name)}/pause", decode=as_it_is)


def resume_queue(name: str) -> Call[Json]:
    """Start jobs of a queue again."""
    return Call(method="POST", path=f"/api/v1/queues/{quote(name)}/resume", decode=as_it_is)


def put_tenant(name: str, rules: Json) -> Call[Json]:
    """Say what holds for a tenant, by the fields of the resource; None: as the server's settings say."""
    return Call(method="PUT", path=f"/api/v1/tenants/{quote(name, safe='')}", json=rules, decode=as_it_is)


def start_migration(job_id: str, to: str | None = None) -> Call[Json]:
    """Move a running job, to the gpu `<node>.<index>` if that is given."""
    body = {"job_id": job_id} if to is None else {"job_id": job_id, "to": to}
    return Call(method="POST", path="/api/v1/migrations", json=body, decode=as_it_is)


def get_migration(migration_id: str) -> Call[Json]:
    """Read a migration as it stands."""
    return Call(method="GET", path=f"/api/v1/migrations/{quote(migration_id, safe='')}", decode=as_it_is)


def abort_migration(migration_id: str) -> Call[Json]:
    """Leave a job where it is."""
    return Call(method="POST", path=f"/api/v1/migrations/{quote(migration_id, safe='')}/abort", decode=as_it_is)


def drain_node(node: str, gpu: int | None = None) -> Call[Json]:
    """Let the gpus of a node, or one of them, take no more work, and move what runs there."""
    return Call(method="POST", path=f"{_gpus_path(node, gpu)}/drain", decode=as_it_is)


def undrain_node(node: str, gpu: int | None = None) -> Call[Json]:
    """Let the gpus of a node, or one of them, take work again."""
    return Call(method="POST", path=f"{_gpus_path(node, gpu)}/undrain", decode=as_it_is)


def _gpus_path(node: str, gpu: int | None) -> str:
    path = f"/api/v1/nodes/{quote(node, safe='')}"
    return path if gpu is None else f"{path}/gpus/{gpu}"


def create_key(name: str, scopes: Sequence[str], tenant: str) -> Call[Json]:
    """Make an API key; a repetition after a lost answer makes another one, because the first is shown to nobody."""
    body = {"name": name, "scopes": list(scopes), "tenant": tenant}
    return Call(method="POST", path="/api/v1/keys", json=body, decode=as_it_is)


def revoke_key(key_id: str) -> Call[None]:
    """Make a key useless."""
    return Call(method="DELETE", path=f"/api/v1/keys/{quote(key_id, safe='')}", decode=lambda _nothing: None)


def create_user(name: str, role: str) -> Call[Json]:
    """Make a user of the admin UI."""
    return Call(method="POST", path="/api/v1/users", json={"name": name, "role": role}, decode=as_it_is)


def invite_user(name: str) -> Call[Json]:
    """Make a link by which a user sets a new password."""
    return Call(method="POST", path=f"{_user_path(name)}/link", decode=as_it_is)


def set_role(name: str, role: str) -> Call[Json]:
    """Give a user another role."""
    return Call(method="PATCH", path=_user_path(name), json={"role": role}, decode=as_it_is)


def disable_user(name: str) -> Call[None]:
    """Sign a user out for good."""
    return Call(method="DELETE", path=_user_path(name), decode=lambda _nothing: None)


def _once(key: str | None = None) -> dict[str, str]:
    """Headers by which the server knows a request that is sent again after a lost answer."""
    return {"Idempotency-Key": key or uuid.uuid4().hex}


def _model_path(name: str) -> str:
    return f"/api/v1/models/{quote(name)}"


def _placement_path(checkpoint: str, node: str) -> str:
    return f"/api/v1/placements/{quote(checkpoint, safe='')}/{quote(node, safe='')}"


def _user_path(name: str) -> str:
    return f"/api/v1/users/{quote(name, safe='')}"


def as_it_is(json: Json) -> Json:
    """Read an answer that is passed on whole."""
    return json
