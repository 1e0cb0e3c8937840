"""From a checked request body to an accepted job."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from flask import g, request

from sllm_tasks.admission import Accepted, Admission
from sllm_tasks.errors import SllmError, UnavailableError
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobSpec, SamplingParams
from sllm_tasks.ledger.jobs import NewJob
from sllm_tasks.livestate import LiveState
from sllm_tasks.repeats import NamedRequest, RepeatableRequest
from sllm_tasks.timeline import mark_at
from webapp.catalog import ServedModel
from webapp.errors import ContextLengthError
from webapp.schemas.jobs import JobParams, JobRequest
from webapp.services import WebServices

#: Output tokens where the user does not say how many, if there is room for so many.
_DEFAULT_MAX_TOKENS = 256


def accept_once(admission: Admission, request_again: RepeatableRequest | None, make: Callable[[], NewJob]) -> Accepted:
    """Accept the job that `make` makes of the request, unless an earlier sending of it was accepted.

    What was accepted is not to be refused when it is sent again, whatever has become of its model since. It is looked
    for only where `make` refuses: otherwise it is found when the job is written, and a new request costs no query more.

    Raises:
        SllmError: Of a kind that `webapp.problems` has a status for.

    """
    try:
        new = make()
    except UnavailableError:
        raise
    except SllmError:
        first = None if request_again is None else admission.find(request_again)
        if first is None:
            raise
        return first
    return admission.submit(new, request_again)


def new_job(services: WebServices, body: JobRequest, tenant: str, named: NamedRequest | None = None) -> NewJob:
    """Check a request against its model.

    Raises:
        SllmError: Of a kind that `webapp.problems` has a status for.

    """
    model = services.catalog.served(body.model)
    prompt_ids = services.prompts.prompt_ids(model, body.input)
    created_ms = cluster_ms(services.live)
    spec = JobSpec(
        job_id=new_id("job"),
        tenant=tenant,
        model=model.name,
        checkpoint=model.checkpoint,
        shape=model.shape,
        prompt_ids=prompt_ids,
        params=sampling_params(body.params, model, len(prompt_ids)),
        priority=body.priority,
        job_class=body.job_class,
        created_ms=created_ms,
        deadline_ms=None if body.deadline_s is None else created_ms + int(body.deadline_s * 1000),
        exactness=model.exactness,
        traceparent=request.headers.get("traceparent", "")[:64] or None,
    )
    mark_at("post.received", spec.job_id, g.received_ns)
    messages = body.input.messages
    return NewJob(
        spec=spec,
        prompt=body.input.prompt,
        messages=None if messages is None else [message.model_dump() for message in messages],
        metadata=body.metadata,
        client_id=None if named is None else named.client_id,
        fingerprint=None if named is None else named.fingerprint,
        request_id=g.request_id,
        max_attempts=services.settings.max_attempts,
        result_ttl_s=body.result_ttl_s or services.settings.result_ttl_s,
    )


def sampling_params(params: JobParams, model: ServedModel, num_prompt_tokens: int) -> SamplingParams:
    """Fill in what a user left out; raises ContextLengthError."""
    room = model.context - num_prompt_tokens
    wanted = params.max_tokens
    if room < 1 or (wanted is not None and wanted > room):
        output = "" if wanted is None else f" and {wanted} of output"
        raise ContextLengthError(
            f"{num_prompt_tokens} tokens of prompt{output} do not fit into a context of {model.context}"
        )
    defaults = model.defaults
    return SamplingParams(
        max_tokens=min(_DEFAULT_MAX_TOKENS, room) if wanted is None else wanted,
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
