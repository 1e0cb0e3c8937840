"""Jobs as the API writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from sllm_tasks.jobs import JobPhase
from sllm_tasks.ledger.encoding import to_ms
from sllm_tasks.ledger.tables import JobAttemptRow, JobRow
from webapp.job_views import JobView
from webapp.outgoing import time_json

JobJson = dict[str, object]


def job_json(view: JobView) -> JobJson:
    """The job as the API shows it."""
    row, live = view.row, view.live
    path = f"/api/v1/jobs/{row.id}"
    return {
        "id": row.id,
        "object": "job",
        "client_id": row.client_id,
        "status": view.status,
        "status_reason": view.status_reason,
        "phase": _phase(view),
        "model": row.model,
        "checkpoint": row.checkpoint,
        "class": row.job_class,
        "priority": row.priority,
        "attempt": live.attempt if live is not None else row.attempt,
        "max_attempts": row.max_attempts,
        "progress": {"done": view.num_tokens, "total": row.params["max_tokens"], "unit": "tokens"},
        "loading": view.loading,
        "assignment": _assignment(view),
        "exactness": _exactness(view),
        "params": row.params,
        "output": output_json(row) if row.status.is_terminal else None,
        "usage": usage_json(row) if row.status.is_terminal else None,
        "error": error_json(row),
        "migrations": row.num_migrations,
        "timings_ms": _timings(view),
        "metadata": row.user_metadata,
        "created_at": time_json(row.created_at),
        "started_at": time_json(row.started_at),
        "completed_at": time_json(row.ended_at),
        "deadline_at": time_json(row.deadline_at),
        "expires_at": time_json(row.expires_at),
        "links": {
            "self": path,
            "events": f"{path}/events",
            "result": f"{path}/result",
            "attempts": f"{path}/attempts",
            "cancel": f"{path}/cancel",
        },
    }


def result_json(view: JobView) -> JobJson:
    """What the job has produced, and nothing else."""
    return {
        "id": view.row.id,
        "object": "job.result",
        "exactness": view.row.exactness_achieved,
        "output": output_json(view.row),
        "usage": usage_json(view.row),
    }


def attempt_json(row: JobAttemptRow) -> JobJson:
    """One try of the job."""
    return {
        "attempt": row.attempt,
        "node": row.node,
        "gpus": row.gpus,
        "worker": row.worker_id,
        "replica": row.replica_id,
        "start_kind": row.start_kind,
        "started_at": time_json(row.started_at),
        "ended_at": time_json(row.ended_at),
        "exit_reason": row.exit_reason,
        "tokens": row.num_tokens,
    }


def output_json(row: JobRow) -> JobJson | None:
    """What the job has produced; a job that failed keeps its partial text."""
    if row.output is None:
        return None
    output: JobJson = {"text": row.output, "finish_reason": row.finish_reason}
    if row.logprobs is not None:
        output["logprobs"] = row.logprobs
    return output


def usage_json(row: JobRow) -> JobJson | None:
    """Token counts."""
    if row.completion_tokens is None:
        return None
    return {"prompt_tokens": row.prompt_tokens, "completion_tokens": row.completion_tokens}


def error_json(row: JobRow) -> JobJson | None:
    """Why the job did not succeed."""
    if row.error_code is None:
        return None
    return {
        "code": row.error_code,
        "message": row.error_message,
        "retryable": bool(row.error_retryable),
        "attempts": row.attempt,
    }


def _phase(view: JobView) -> JobPhase | None:
    if view.live is not None:
        return view.live.phase
    return None if view.status.is_terminal else JobPhase.WAITING_GPU


def _assignment(view: JobView) -> Mapping[str, object] | None:
    live = view.live
    if live is None or live.gpu is None:
        return view.row.assignment
    return {"node": live.gpu.node, "gpus": [live.gpu.index], "start_kind": (live.start or live).start_kind}


def _exactness(view: JobView) -> Mapping[str, object]:
    """What was asked for, what the tokens so far are worth, in which class they were made, and why that is less."""
    assignment = view.row.assignment or {}
    equality = view.live.equality if view.live is not None else None
    return {
        "asked": view.row.exactness,
        "achieved": view.row.exactness_achieved if equality is None else equality.exactness,
        "class": assignment.get("fingerprint") if equality is None else equality.fingerprint or None,
        "downgrade": assignment.get("downgrade") if equality is None else equality.downgrade or None,
    }


def _timings(view: JobView) -> dict[str, int | None]:
    """How long each part took, in ms; the live record and the row hold the times at which parts began."""
    if view.live is not None:
        begun = view.live.start or view.live
        times = {
            "assigned_ms": begun.assigned_ms,
            "started_ms": begun.started_ms,
            "prefill_ms": begun.prefill_ms,
            "first_token_ms": begun.first_token_ms,
        }
    else:
        times = cast("dict[str, int | None]", view.row.timings_ms or {})
    created, ended = to_ms(view.row.created_at), view.row.ended_at

    def between(begin: int | None, end: int | None) -> int | None:
        return None if begin is None or end is None else max(0, end - begin)

    return {
        "queued": between(created, times.get("assigned_ms")),
        "placing": between(times.get("assigned_ms"), times.get("started_ms")),
        "loading": between(times.get("started_ms"), times.get("prefill_ms")),
        "first_token": between(created, times.get("first_token_ms")),
        "total": between(created, to_ms(ended) if ended is not None else None),
    }
