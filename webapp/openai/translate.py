"""From requests in OpenAI's words to requests for jobs; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from sllm_tasks.ids import new_id
from sllm_tasks.ledger.jobs import NewJob
from sllm_tasks.limits import MAX_SEED
from webapp.errors import FieldError, InvalidFieldsError, ModelUnknownError
from webapp.schemas.fields import ModelName
from webapp.schemas.jobs import ChatMessage, JobInput, JobParams, JobRequest
from webapp.schemas.openai import MAX_CHOICES, ChatCompletionRequest, CompletionRequest, GenerationRequest

#: What a legacy completion gets where its client does not say how many tokens it wants; a chat gets all the room.
_COMPLETION_TOKENS: Final = 16
_DEFAULT_PRIORITY: Final = 5
#: Parameters that change the answer and are not built: only these values of them, which ask for nothing, are taken.
_UNSUPPORTED: Final[Mapping[str, tuple[object, ...]]] = {
    "audio": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0, 0.0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "min_p": (None, 0, 0.0),
    "modalities": (None, ["text"]),
    "prediction": (None,),
    "presence_penalty": (None, 0, 0.0),
    "repetition_penalty": (None, 1, 1.0),
    "response_format": (None, {"type": "text"}),
    "suffix": (None, ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "web_search_options": (None,),
}
_UNSUPPORTED_OF_MESSAGE: Final = ("tool_calls", "function_call", "tool_call_id", "audio")

_MODEL_NAME: TypeAdapter[str] = TypeAdapter(ModelName)

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A request as the jobs that answer it."""

    endpoint: Endpoint
    #: One for each prompt, in the order of choices.
    jobs: tuple[JobRequest, ...]
    #: Choices of each prompt.
    num_choices: int
    #: Whether an output whose length nobody limits may take all the room of the context.
    fills_context: bool
    streams: bool
    streams_usage: bool
    #: Parameters that had no effect.
    ignored: tuple[str, ...]


def wanted_of_chat(body: ChatCompletionRequest) -> Wanted:
    """Translate a chat; raises InvalidFieldsError or ModelUnknownError."""
    _refuse_unsupported(body)
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidFieldsError((FieldError(pointer="/top_logprobs", detail="needs logprobs", code="dependency"),))
    messages = [ChatMessage(role=_role(turn.role), content=turn.content) for turn in body.messages]
    params = _params(
        body,
        max_tokens=body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    job = _job(body, JobInput(messages=messages), params)
    return _wanted("/v1/chat/completions", body, (job,), fills_context=True)


def wanted_of_completion(body: CompletionRequest) -> Wanted:
    """Translate a legacy completion; raises InvalidFieldsError or ModelUnknownError."""
    _refuse_unsupported(body)
    if len(body.prompt) * (body.n or 1) > MAX_CHOICES:
        detail = f"times the number of prompts must be at most {MAX_CHOICES}"
        raise InvalidFieldsError((FieldError(pointer="/n", detail=detail, code="less_than_equal"),))
    if "" in body.prompt:
        raise InvalidFieldsError((FieldError(pointer="/prompt", detail="must not be empty", code="string_too_short"),))
    params = _params(body, max_tokens=body.max_tokens or _COMPLETION_TOKENS, logprobs=body.logprobs)
    inputs = [
        JobInput(prompt=prompt) if isinstance(prompt, str) else JobInput(prompt_ids=tuple(prompt))
        for prompt in body.prompt
    ]
    jobs = tuple(_job(body, job_input, params) for job_input in inputs)
    return _wanted("/v1/completions", body, jobs, fills_context=False)


def choices_of(made: tuple[NewJob, ...], wanted: Wanted, group_id: str | None, first_index: int = 0) -> list[NewJob]:
    """Multiply the job of each prompt by the choices wanted: the same prompt, the next seed, its place in the group.

    A request for one choice needs no group; one that is given is used in any case. None makes one of the first job.
    """
    if group_id is None and len(made) * wanted.num_choices == 1:
        return list(made)
    group_id = group_id or made[0].spec.job_id
    choices: list[NewJob] = []
    for new in made:
        for choice in range(wanted.num_choices):
            spec = new.spec
            if choice:
                params = replace(spec.params, seed=(spec.params.seed + choice) & MAX_SEED)
                spec = replace(spec, job_id=new_id("job"), params=params)
            index = first_index + len(choices)
            choices.append(replace(new, spec=spec, group_id=group_id, group_index=index))
    return choices


def _wanted(
    endpoint: Endpoint, body: GenerationRequest, jobs: tuple[JobRequest, ...], *, fills_context: bool
) -> Wanted:
    extra = body.model_extra or {}
    return Wanted(
        endpoint=endpoint,
        jobs=jobs,
        num_choices=body.n or 1,
        fills_context=fills_context,
        streams=bool(body.stream),
        streams_usage=body.stream_options is not None and body.stream_options.include_usage,
        ignored=tuple(sorted(extra.keys() - _UNSUPPORTED.keys())),
    )


def _job(body: GenerationRequest, job_input: JobInput, params: JobParams) -> JobRequest:
    return JobRequest(
        model=_possible_name(body.model),
        input=job_input,
        params=params,
        priority=_DEFAULT_PRIORITY if body.priority is None else body.priority,
        deadline_s=body.deadline_s,
        metadata=body.metadata or {},
    )


def _params(body: GenerationRequest, *, max_tokens: int | None, logprobs: int | None) -> JobParams:
    return JobParams(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        # Seeds of ours have no sign.
        seed=None if body.seed is None else body.seed & MAX_SEED,
        stop=tuple(body.stop or ()),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=body.ignore_eos,
        logprobs=logprobs,
    )


def _possible_name(model: str) -> str:
    try:
        return _MODEL_NAME.validate_python(model)
    except ValidationError:
        raise ModelUnknownError("there is no model of that name; GET /v1/models lists those there are") from None


def _role(role: str) -> str:
    # Templates are older than this name of theirs.
    return "system" if role == "developer" else role


def _refuse_unsupported(body: GenerationRequest) -> None:
    extra = body.model_extra or {}
    wrong = [name for name, allowed in _UNSUPPORTED.items() if not _is_one_of(extra.get(name), allowed)]
    if isinstance(body, ChatCompletionRequest):
        for index, turn in enumerate(body.messages):
            given = turn.model_extra or {}
            wrong += [f"messages/{index}/{name}" for name in _UNSUPPORTED_OF_MESSAGE if given.get(name)]
    if wrong:
        detail = "is not supported by this server"
        raise InvalidFieldsError(
            tuple(FieldError(pointer=f"/{name}", detail=detail, code="unsupported_parameter") for name in wrong)
        )


# Any: it may be any JSON.
def _is_one_of(value: Any, allowed: tuple[object, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in allowed)
