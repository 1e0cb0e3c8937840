"""Records to put into a ledger, valid unless a test says otherwise."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.errors import ErrorCode
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import FinishReason, JobError, JobSpec, JobStatus, Outcome, SamplingParams, Usage
from sllm_tasks.ledger import keys
from sllm_tasks.ledger.encoding import to_ms
from sllm_tasks.ledger.inventory import DeployedModel, ModelSettings, NewCheckpoint
from sllm_tasks.ledger.jobs import Ending, NewJob, insert_job

NOW = datetime(2026, 11, 21, 3, 0, 0, 123_000, tzinfo=UTC)
TENANT = "acme"
DEPLOYED = DeployedModel(
    checkpoint="sha256:c",
    weights_bytes=2**41,
    kv_bytes_per_token=4096,
    bytes_per_gpu=2**42,
    context=1024,
    dtype="bfloat16",
)


def make_job(**changes: object) -> NewJob:
    spec = JobSpec(
        job_id=new_id("job"),
        tenant=TENANT,
        model="m",
        checkpoint="sha256:c",
        shape=ReplicaShape(engine="steploop", num_gpus=1, bytes_per_gpu=2**42, max_jobs=8, context=1024),
        prompt_ids=(1, 50_000, 2**32 - 1),
        params=SamplingParams(max_tokens=16, seed=7, stop=("\n", "."), stop_token_ids=(2,), logprobs=1),
        created_ms=to_ms(NOW),
    )
    return replace(NewJob(spec=spec, prompt="Say hi", metadata={"a": "b"}), **changes)  # type: ignore[arg-type]


def add_job(session: Session, new: NewJob | None = None) -> str:
    new = new or make_job()
    keys.ensure_tenant(session, new.spec.tenant, now=NOW)
    insert_job(session, new)
    return new.spec.job_id


def success(job_id: str, text: str = "hi") -> Ending:
    usage = Usage(prompt_tokens=3, completion_tokens=1)
    outcome = Outcome(status=JobStatus.SUCCEEDED, text=text, finish_reason=FinishReason.STOP, usage=usage)
    return Ending(job_id=job_id, outcome=outcome, at=NOW)


def failure(job_id: str, message: str = "the worker died") -> Ending:
    error = JobError(code=ErrorCode.POISON, message=message)
    return Ending(job_id=job_id, outcome=Outcome(status=JobStatus.FAILED, text="h", error=error), at=NOW)


def make_checkpoint(digest: str = "sha256:c") -> NewCheckpoint:
    return NewCheckpoint(
        digest=digest,
        source="/models/m",
        architecture="LlamaForCausalLM",
        dtype="bfloat16",
        num_bytes=2 * 2**40,
        num_parameters=2**40,
        num_partitions=1,
        config="{}",
        generation_config=None,
        tokenizer='{"model": {}}',
        tokenizer_config=None,
        chat_template="{{ messages }}",
        eos_token_ids=(2, 3),
        created_at=NOW,
    )


def make_model(name: str = "m") -> ModelSettings:
    return ModelSettings(
        name=name,
        source="/models/m",
        engine="steploop",
        dtype="bfloat16",
        num_gpus=1,
        max_jobs=8,
        context=2048,
        keep_alive_s=30.0,
        min_replicas=0,
        max_replicas=4,
    )
