"""How a run ends that was asked to stop."""

from __future__ import annotations

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.jobs import FinishReason, JobSpec, JobStatus, SamplingParams, StartKind, TokenRecord
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.worker.engine_loop import deadline_error
from sllm_tasks.worker.runs import JobRun, Stop


def _run() -> JobRun:
    params = SamplingParams(max_tokens=4, seed=1)
    shape = ReplicaShape(engine="instant", num_gpus=1, bytes_per_gpu=1, max_jobs=1, context=64)
    spec = JobSpec(job_id="job_1", tenant="t", model="m", checkpoint="c", shape=shape, prompt_ids=(1, 2), params=params)
    return JobRun(Claim(spec=spec, attempt=1, epoch=1, replica_id="r", start_kind=StartKind.WARM))


def _end(run: JobRun) -> tuple[JobStatus, FinishReason | None, str]:
    run.cancel()
    assert run.outcome is not None
    return run.outcome.status, run.outcome.finish_reason, run.outcome.text


def test_a_deadline_before_the_first_token_is_an_expiry() -> None:
    run = _run()
    run.request_stop(Stop.CANCEL, deadline_error())
    assert _end(run) == (JobStatus.EXPIRED, None, "")


def test_a_deadline_after_the_first_token_is_a_cancellation_that_keeps_the_text() -> None:
    run = _run()
    run.tokens.append(TokenRecord(index=0, token_id=7, text="a"))
    run.request_stop(Stop.CANCEL, deadline_error())
    assert _end(run) == (JobStatus.CANCELED, FinishReason.CANCELED, "a")


def test_a_wish_to_cancel_that_came_before_the_deadline_stays_one() -> None:
    run = _run()
    run.request_stop(Stop.CANCEL)
    run.request_stop(Stop.CANCEL, deadline_error())
    assert _end(run) == (JobStatus.CANCELED, FinishReason.CANCELED, "")
