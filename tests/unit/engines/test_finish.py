"""When a job has produced all it was asked for."""

from __future__ import annotations

from sllm_tasks.engines.base import EngineLimits, EngineRequest
from sllm_tasks.engines.finish import check_request, finish_reason_of_request
from sllm_tasks.jobs import FinishReason, SamplingParams

LIMITS = EngineLimits(max_jobs=1, context=8)
EOS = frozenset({2})


def request(*emitted: int, prompt: tuple[int, ...] = (5, 6), max_tokens: int = 4, **params: object) -> EngineRequest:
    sampling = SamplingParams(max_tokens=max_tokens, seed=0, **params)
    return EngineRequest(job_id="a", token_ids=prompt + emitted, params=sampling, num_emitted=len(emitted))


def test_a_job_without_output_has_not_ended_even_if_its_prompt_ends_with_eos() -> None:
    assert finish_reason_of_request(request(prompt=(5, 2)), EOS, LIMITS) is None


def test_a_job_whose_last_token_was_eos_has_ended() -> None:
    assert finish_reason_of_request(request(7, 2), EOS, LIMITS) is FinishReason.STOP


def test_a_job_that_ignores_eos_goes_on_but_stops_at_its_own_ids() -> None:
    assert finish_reason_of_request(request(7, 2, ignore_eos=True), EOS, LIMITS) is None
    own = request(7, 9, ignore_eos=True, stop_token_ids=(9,))
    assert finish_reason_of_request(own, EOS, LIMITS) is FinishReason.STOP


def test_a_job_with_all_its_tokens_has_ended() -> None:
    assert finish_reason_of_request(request(7, 7, 7, 7), EOS, LIMITS) is FinishReason.LENGTH


def test_a_job_that_fills_the_context_has_ended() -> None:
    assert finish_reason_of_request(request(*[7] * 6, max_tokens=99), EOS, LIMITS) is FinishReason.LENGTH


def test_requests_that_no_engine_can_run_are_explained() -> None:
    assert check_request(request(), LIMITS) is None
    assert "no token" in str(check_request(request(prompt=()), LIMITS))
    assert "already produced" in str(check_request(request(7, 7, max_tokens=2), LIMITS))
    assert "no room" in str(check_request(request(prompt=(5,) * 8), LIMITS))
