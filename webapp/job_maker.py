"""From a checked request to a job that can be accepted; knows nothing of HTTP, because batches are made here too."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from typing import Final

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import Exactness, JobSpec, SamplingParams, can_be_exact, engine_at
from sllm_tasks.ledger.jobs import NewJob
from sllm_tasks.livestate import LiveState
from sllm_tasks.repeats import NamedRequest
from webapp.catalog import Catalog, ServedModel
from webapp.errors import ContextLengthError, ExactnessError
from webapp.prompts import PromptBuilder
from webapp.schemas.jobs import JobParams, JobRequest

#: Output tokens where the user does not say how many, if there is room for so many.
_DEFAULT_MAX_TOKENS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Whose job it is, and how it came in."""

    tenant: str
    request_id: str | None = None
    traceparent: str | None = None
    named: NamedRequest | None = None


@dataclass(frozen=True, slots=True)
class JobMaker:
    """Checks requests against their models; safe to use from many threads."""

    catalog: Catalog
    prompts: PromptBuilder
    live: LiveState
    max_attempts: int
    result_ttl_s: int

    def make(self, body: JobRequest, origin: Origin, *, fills_context: bool = False) -> NewJob:
        """Make a job of a request; an output that nobody limits may take all the room if it `fills_context`.

        Raises SllmError of a kind that `webapp.problems` has a status for.
        """
        model = self.catalog.served(body.model)
        prompt_ids = self.prompts.prompt_ids(model, body.input)
        default_max_tokens = model.context if fills_context else _DEFAULT_MAX_TOKENS
        created_ms = cluster_ms(self.live)
        exactness = body.exactness or model.exactness
        spec = JobSpec(
            job_id=new_id("job"),
            tenant=origin.tenant,
            model=model.name,
            checkpoint=model.checkpoint,
            shape=_shape(model, exactness),
            prompt_ids=prompt_ids,
            params=sampling_params(body.params, model, len(prompt_ids), default_max_tokens),
            priority=body.priority,
            job_class=body.job_class,
            created_ms=created_ms,
            deadline_ms=None if body.deadline_s is None else created_ms + int(body.deadline_s * 1000),
            exactness=exactness,
            traceparent=origin.traceparent,
            request_id=origin.request_id,
        )
        messages, named = body.input.messages, origin.named
        return NewJob(
            spec=spec,
            prompt=body.input.prompt,
            messages=None if messages is None else [message.model_dump() for message in messages],
            metadata=body.metadata,
            webhook=None if body.webhook is None else body.webhook.model_dump(mode="json"),
            client_id=None if named is None else named.client_id,
            fingerprint=None if named is None else named.fingerprint,
            max_attempts=self.max_attempts,
            result_ttl_s=body.result_ttl_s or self.result_ttl_s,
        )


def _shape(model: ServedModel, exactness: Exactness) -> ReplicaShape:
    """Say what a job needs: one that asks for more than its model was deployed for gets a replica of its own kind.

    One that asks for less runs where its model does. Raises ExactnessError.
    """
    if model.exactness is Exactness.EXACT or exactness is Exactness.TOKEN:
        return model.shape
    if not can_be_exact(model.shape.engine):
        raise ExactnessError(f"the engine {model.shape.engine} of the model {model.name} has no level exact")
    return replace(model.shape, engine=engine_at(model.shape.engine, exactness))


def sampling_params(
    params: JobParams, model: ServedModel, num_prompt_tokens: int, default_max_tokens: int
) -> SamplingParams:
    """Fill in what a user left out; raises ContextLengthError."""
    room = model.context - num_prompt_tokens
    wanted = params.max_tokens
    if room < 1 or (wanted is not None and wanted > room):
        output = "" if wanted is None else f" and {wanted} of output"
        raise ContextLengthError(
            f"{num_prompt_tokens} tokens of prompt{output} do not fit into the {model.context} tokens of the model's "
            f"context; send a shorter prompt or ask for fewer tokens"
        )
    defaults = model.defaults
    return SamplingParams(
        max_tokens=min(default_max_tokens, room) if wanted is None else wanted,
        seed=secrets.randbits(63) if params.seed is None else params.seed,
        temperature=defaults.temperature if params.temperature is None else params.temperature,
        top_p=defaults.top_p if params.top_p is None else params.top_p,
        top_k=defaults.top_k if params.top_k is None else params.top_k,
        stop=params.stop,
        stop_token_ids=params.stop_token_ids,
        ignore_eos=params.ignore_eos,
        logprobs=params.logprobs,
    )


def cluster_ms(live: LiveState) -> int:
    """Cluster time; this machine's while the live state has never answered."""
    try:
        return live.now_ms()
    except UnavailableError:
        return time.time_ns() // 1_000_000
