"""Submit a job that exists once more."""

from __future__ import annotations

from dataclasses import replace

from flask import g

from sllm_tasks.errors import ConflictError
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.encoding import job_spec
from sllm_tasks.ledger.jobs import NewJob
from webapp.job_maker import cluster_ms
from webapp.job_views import JobView
from webapp.services import WebServices

_RETRYABLE = frozenset({JobStatus.FAILED, JobStatus.EXPIRED, JobStatus.CANCELED})


def retry_of(services: WebServices, view: JobView) -> NewJob:
    """The same work as a new job; raises ConflictError unless the old one ended without success."""
    row = view.row
    if view.status not in _RETRYABLE:
        why = "has succeeded" if view.status is JobStatus.SUCCEEDED else f"is {view.status}"
        raise ConflictError(f"the job {why}; only one that failed, expired or was canceled can be retried")
    if services.catalog.served(row.model).checkpoint != row.checkpoint:
        raise ConflictError("the model has been deployed anew since; submit a new job")
    created_ms = cluster_ms(services.live)
    spec = replace(
        job_spec(row), job_id=new_id("job"), created_ms=created_ms, deadline_ms=None, request_id=g.request_id
    )
    return NewJob(
        spec=spec,
        prompt=row.prompt,
        messages=row.messages,
        metadata={name: str(value) for name, value in row.user_metadata.items()},
        webhook=row.webhook,
        max_attempts=services.settings.max_attempts,
        result_ttl_s=row.result_ttl_s,
    )
