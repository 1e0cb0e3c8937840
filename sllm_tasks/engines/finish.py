"""When a job has produced all it was asked for: the one rule that engines, and whoever resumes a job, share."""

from __future__ import annotations

from sllm_tasks.engines.base import EngineLimits, EngineRequest
from sllm_tasks.jobs import FinishReason, SamplingParams


def end_token_ids(params: SamplingParams, eos_token_ids: frozenset[int]) -> frozenset[int]:
    """Name the ids that end this job."""
    own = frozenset(params.stop_token_ids)
    return own if params.ignore_eos else own | eos_token_ids


def finish_reason(
    params: SamplingParams, end_ids: frozenset[int], *, token_id: int, num_output: int, num_tokens: int, context: int
) -> FinishReason | None:
    """Say whether `token_id` was a job's last token.

    `num_output` and `num_tokens` (prompt and output) count it.
    """
    if token_id in end_ids:
        return FinishReason.STOP
    if num_output >= params.max_tokens or num_tokens >= context:
        return FinishReason.LENGTH
    return None


def finish_reason_of_request(
    request: EngineRequest, eos_token_ids: frozenset[int], limits: EngineLimits
) -> FinishReason | None:
    """Say whether a job that is about to be resumed has in fact ended already.

    Its worker may have died between the last token and the report of the end; such a job must not be submitted.
    """
    if request.num_emitted == 0:
        return None
    return finish_reason(
        request.params,
        end_token_ids(request.params, eos_token_ids),
        token_id=request.token_ids[-1],
        num_output=request.num_emitted,
        num_tokens=len(request.token_ids),
        context=limits.context,
    )


def check_request(request: EngineRequest, limits: EngineLimits) -> str | None:
    """Explain why an engine with these limits cannot run a request; None when it can."""
    if request.num_prompt_tokens < 1:
        return "the prompt has no token"
    if request.num_emitted >= request.params.max_tokens:
        return f"{request.num_emitted} of at most {request.params.max_tokens} tokens are already produced"
    if len(request.token_ids) >= limits.context:
        return f"{len(request.token_ids)} tokens leave no room in a context of {limits.context}"
    return None
