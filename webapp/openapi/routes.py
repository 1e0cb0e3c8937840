"""What each route takes and answers; paths, methods and scopes are those of the views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel

from webapp.openapi import answers as native
from webapp.openapi import openai_answers as openai
from webapp.schemas import admin, jobs, migrations, openai_files, scheduler, webhooks
from webapp.schemas import openai as openai_bodies
from webapp.schemas.fields import Body


@dataclass(frozen=True, slots=True)
class ListOf:
    """A page of a list."""

    item: type[BaseModel]


@dataclass(frozen=True, slots=True)
class Bytes:
    """A body that is no JSON."""

    media_type: str


@dataclass(frozen=True, slots=True)
class Streamed:
    """JSON of a form, or a stream of its parts, as the request wants it."""

    whole: type[BaseModel]


#: What an answer has as its body: nothing, JSON of a form, a list of such, a stream as well, or other bytes.
Content = type[BaseModel] | ListOf | Streamed | Bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteForm:
    """One view; errors that follow from its body, its query, its path and its scope are left out."""

    answers: Mapping[int, Content]
    body: type[Body] | None = None
    #: The body is a form with a file.
    is_upload: bool = False
    query: type[Body] | None = None
    #: Headers that it honours besides those that all do.
    headers: tuple[str, ...] = ()
    #: Further statuses of errors.
    errors: frozenset[int] = field(default=frozenset())


_KEY: Final = "Idempotency-Key"
_JOB_HEADERS: Final = ("Prefer", "traceparent")
#: Of a route that makes a job.
_MAKES: Final = frozenset({409, 413, 415})
_OPERATION: Final[Mapping[int, Content]] = {202: native.Operation}
_EVENTS: Final = Bytes("text/event-stream")


def _one(form: type[BaseModel]) -> RouteForm:
    return RouteForm(answers={200: form})


def _all(form: type[BaseModel], query: type[Body] | None = None) -> RouteForm:
    return RouteForm(answers={200: ListOf(form)}, query=query)


#: By Flask's names of the views.
ROUTES: Final[Mapping[str, RouteForm]] = {
    "health.get_health": _one(native.Health),
    "health.get_readiness": RouteForm(answers={200: native.Health}, errors=frozenset({503})),
    "metrics.get_metrics": RouteForm(answers={200: Bytes("text/plain")}, errors=frozenset({401, 403, 429, 503})),
    "openapi.get_document": RouteForm(answers={200: Bytes("application/json")}),
    "openapi.show_document": RouteForm(answers={200: Bytes("text/html")}),
    "jobs.submit_job": RouteForm(
        body=jobs.JobRequest, answers={202: native.Job, 200: native.Job}, headers=(_KEY, *_JOB_HEADERS), errors=_MAKES
    ),
    "jobs.put_job": RouteForm(
        body=jobs.JobRequest, answers={202: native.Job, 200: native.Job}, headers=_JOB_HEADERS, errors=_MAKES | {410}
    ),
    "jobs.get_jobs": _all(native.Job, jobs.JobsQuery),
    "jobs.get_job": RouteForm(
        answers={200: native.Job, 304: None}, headers=("Prefer", "If-None-Match"), errors=frozenset({410})
    ),
    "jobs.get_result": RouteForm(
        answers={200: native.JobResult, 202: native.NotYet}, headers=("Prefer",), errors=frozenset({410})
    ),
    "jobs.get_attempts": RouteForm(answers={200: ListOf(native.Attempt)}, errors=frozenset({410})),
    "jobs.get_deliveries": RouteForm(
        answers={200: ListOf(native.Delivery)}, query=jobs.DeliveriesQuery, errors=frozenset({410})
    ),
    "jobs.cancel_job": RouteForm(answers={200: native.Job, 202: native.Job}, errors=frozenset({410})),
    "jobs.post_retry": RouteForm(
        answers={200: native.Job, 202: native.Job}, headers=(_KEY, "Prefer"), errors=frozenset({409, 410})
    ),
    "jobs.delete_job": RouteForm(answers={204: None}, errors=frozenset({409, 410})),
    "job_events.get_events": RouteForm(
        answers={200: _EVENTS, 204: None},
        query=jobs.EventsQuery,
        headers=("Last-Event-ID",),
        errors=frozenset({410}),
    ),
    "models.get_models": _all(native.Model),
    "models.get_one": _one(native.Model),
    "models.put_one": RouteForm(body=admin.ModelRequest, answers=_OPERATION, headers=(_KEY,), errors=frozenset({409})),
    "models.delete_one": RouteForm(answers=_OPERATION, headers=(_KEY,), errors=frozenset({409})),
    "checkpoints.get_checkpoints": _all(native.Checkpoint),
    "checkpoints.verify": RouteForm(body=admin.VerifyRequest, answers=_OPERATION, headers=(_KEY,)),
    "operations.get_operations": _all(native.Operation, jobs.OperationsQuery),
    "operations.get_one": _one(native.Operation),
    "operations.cancel": RouteForm(answers={200: native.Operation}, errors=frozenset({409})),
    "nodes.get_nodes": _all(native.Node),
    "nodes.calibrate": RouteForm(answers=_OPERATION, headers=(_KEY,)),
    "nodes.drain": RouteForm(answers={200: native.Node}),
    "nodes.undrain": RouteForm(answers={200: native.Node}),
    "nodes.drain_gpu": RouteForm(answers={200: native.Node}),
    "nodes.undrain_gpu": RouteForm(answers={200: native.Node}, errors=frozenset({409})),
    "placements.get_placements": _all(native.Placement, admin.PlacementsQuery),
    "placements.get_proposals": _all(native.PlacementProposal),
    "placements.apply_proposals": _all(native.PlacementProposal),
    "placements.put_one": RouteForm(body=admin.PlacementRequest, answers={202: native.Placement}),
    "placements.delete_one": RouteForm(answers={202: native.Placement}),
    "queues.get_queues": _all(native.Queue),
    "queues.pause": _one(native.Queue),
    "queues.resume": _one(native.Queue),
    "tenants.get_tenants": _all(native.Tenant),
    "tenants.put_one": RouteForm(body=admin.TenantRequest, answers={200: native.Tenant}),
    "keys.get_keys": _all(native.Key),
    "keys.create_key": RouteForm(body=admin.KeyRequest, answers={201: native.MadeKey}, headers=(_KEY,)),
    "keys.revoke_key": RouteForm(answers={204: None}),
    "users.get_users": _all(native.User),
    "users.create_user": RouteForm(body=admin.UserRequest, answers={201: native.InvitedUser}, errors=frozenset({409})),
    "users.invite": _one(native.InvitedUser),
    "users.set_role": RouteForm(body=admin.RoleRequest, answers={200: native.User}, errors=frozenset({409})),
    "users.disable": RouteForm(answers={204: None}, errors=frozenset({409})),
    "migrations.get_migrations": _all(native.Migration),
    "migrations.start_migration": RouteForm(
        body=migrations.MigrationRequest, answers={200: native.Migration}, errors=frozenset({404, 409})
    ),
    "migrations.get_migration": _one(native.Migration),
    "migrations.abort_migration": RouteForm(answers={200: native.Migration}, errors=frozenset({409})),
    "scheduler.explain": RouteForm(
        body=scheduler.ExplainRequest, answers={200: native.Explanation}, errors=frozenset({404})
    ),
    "scheduler.get_decisions": _all(native.Decision, scheduler.DecisionsQuery),
    "webhooks.get_webhooks": _all(native.Webhook),
    "webhooks.create_webhook": RouteForm(
        body=webhooks.WebhookRequest, answers={201: native.MadeWebhook}, headers=(_KEY,), errors=frozenset({409})
    ),
    "webhooks.get_secret": _one(native.WebhookSecret),
    "webhooks.get_one": _one(native.Webhook),
    "webhooks.set_state": RouteForm(body=webhooks.WebhookState, answers={200: native.Webhook}),
    "webhooks.delete_webhook": RouteForm(answers={204: None}),
    "webhooks.test": RouteForm(answers={202: native.Delivery}, headers=(_KEY,), errors=frozenset({409})),
    "webhooks.get_deliveries": _all(native.Delivery, jobs.DeliveriesQuery),
    "webhooks.redeliver": RouteForm(answers={202: native.Delivery}, headers=(_KEY,), errors=frozenset({409})),
    "openai_models.get_models": _one(openai.OpenAiModels),
    "openai_models.get_one": _one(openai.OpenAiModel),
    "openai_completions.post_chat": RouteForm(
        body=openai_bodies.ChatCompletionRequest,
        answers={200: Streamed(openai.ChatCompletion)},
        headers=(_KEY,),
        errors=frozenset({404, 409, 422, 500, 504}),
    ),
    "openai_completions.post_completion": RouteForm(
        body=openai_bodies.CompletionRequest,
        answers={200: Streamed(openai.TextCompletion)},
        headers=(_KEY,),
        errors=frozenset({404, 409, 422, 500, 504}),
    ),
    "openai_files.post_file": RouteForm(
        body=openai_files.FileForm, is_upload=True, answers={200: openai.File}, headers=(_KEY,), errors=frozenset({422})
    ),
    "openai_files.get_files": _all(openai.File, openai_files.FilesQuery),
    "openai_files.get_one": _one(openai.File),
    "openai_files.get_content": RouteForm(answers={200: Bytes("application/octet-stream")}),
    "openai_files.delete_one": RouteForm(answers={200: openai.DeletedFile}, errors=frozenset({409})),
    "openai_batches.post_batch": RouteForm(
        body=openai_files.BatchRequest, answers={200: openai.Batch}, headers=(_KEY,), errors=frozenset({422})
    ),
    "openai_batches.get_batches": _all(openai.Batch, openai_files.BatchesQuery),
    "openai_batches.get_one": _one(openai.Batch),
    "openai_batches.cancel_batch": RouteForm(answers={200: openai.Batch}, errors=frozenset({409})),
}
