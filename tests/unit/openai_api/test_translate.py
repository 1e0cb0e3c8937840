"""Requests in OpenAI's words as requests for jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.jobs import JobSpec, SamplingParams
from sllm_tasks.ledger.jobs import NewJob
from sllm_tasks.limits import MAX_SEED
from webapp.errors import InvalidFieldsError, ModelUnknownError
from webapp.field_errors import invalid_fields
from webapp.openai.translate import Wanted, choices_of, wanted_of_chat, wanted_of_completion
from webapp.schemas.openai import ChatCompletionRequest, CompletionRequest


def _chat(**fields: Any) -> Wanted:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}
    return wanted_of_chat(ChatCompletionRequest.model_validate_json(json.dumps(body)))


def _completion(**fields: Any) -> Wanted:
    return wanted_of_completion(
        CompletionRequest.model_validate_json(json.dumps({"model": "m", "prompt": "x", **fields}))
    )


def _made(seed: int) -> NewJob:
    spec = JobSpec(
        job_id="job_first",
        tenant="t",
        model="m",
        checkpoint="c",
        shape=ReplicaShape(engine="instant", num_gpus=1, bytes_per_gpu=1, max_jobs=1, context=8),
        prompt_ids=(1,),
        params=SamplingParams(max_tokens=1, seed=seed),
    )
    return NewJob(spec=spec)


def test_the_newer_name_of_a_limit_counts_before_the_older_one() -> None:
    assert _chat(max_tokens=5, max_completion_tokens=7).jobs[0].params.max_tokens == 7
    assert _chat(max_tokens=5).jobs[0].params.max_tokens == 5


def test_a_chat_may_fill_its_context_and_a_legacy_completion_has_sixteen_tokens() -> None:
    chat, completion = _chat(), _completion()
    assert (chat.fills_context, chat.jobs[0].params.max_tokens) == (True, None)
    assert (completion.fills_context, completion.jobs[0].params.max_tokens) == (False, 16)


def test_log_probabilities_of_a_chat_are_a_flag_and_a_number() -> None:
    assert _chat().jobs[0].params.logprobs is None
    assert _chat(logprobs=True).jobs[0].params.logprobs == 0
    assert _chat(logprobs=True, top_logprobs=3).jobs[0].params.logprobs == 3
    with pytest.raises(InvalidFieldsError):
        _chat(top_logprobs=3)


@pytest.mark.parametrize(("prompt", "num_jobs"), [("x", 1), (["x", "y"], 2), ([1, 2], 1), ([[1], [2, 3]], 2)])
def test_prompts_come_as_texts_or_token_ids_alone_or_in_lists(prompt: object, num_jobs: int) -> None:
    assert len(_completion(prompt=prompt).jobs) == num_jobs


@pytest.mark.parametrize("prompt", [[], "", [""], [True], [1.5], [[]], {"a": 1}, None, ["x"] * 65, [-1]])
def test_a_prompt_of_another_form_is_refused(prompt: object) -> None:
    with pytest.raises((InvalidFieldsError, ValueError)):
        _completion(prompt=prompt)


@pytest.mark.parametrize("prompt", ["a\0", [1, 2**32], [-1]])
def test_a_prompt_that_no_model_can_read_is_refused_in_one_sentence(prompt: object) -> None:
    with pytest.raises(ValidationError) as raised:
        _completion(prompt=["fine", prompt])
    (error,) = invalid_fields(raised.value, "/").errors
    assert (error.pointer, error.detail.partition(",")[0]) == ("/prompt/1", "must be a text without U+0000")


def test_prompts_times_choices_are_bounded() -> None:
    with pytest.raises(InvalidFieldsError, match="at most 64"):
        _completion(prompt=["x"] * 9, n=8)


@pytest.mark.parametrize(
    "fields",
    [{"tools": [{}]}, {"logit_bias": {"1": 2}}, {"presence_penalty": 1}, {"response_format": {"type": "json_object"}}],
)
def test_what_would_change_the_answer_and_is_not_built_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidFieldsError, match="not supported") as caught:
        _chat(**fields)
    assert caught.value.errors[0].code == "unsupported_parameter"


def test_values_that_ask_for_nothing_are_taken_and_unknown_ones_are_named() -> None:
    wanted = _chat(
        tools=None, presence_penalty=0, frequency_penalty=0.0, response_format={"type": "text"}, x=1, user="u"
    )
    assert wanted.ignored == ("user", "x")


def test_a_tool_call_in_a_message_is_refused_by_its_place() -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [{}]}]
    with pytest.raises(InvalidFieldsError) as caught:
        _chat(messages=messages)
    assert caught.value.errors[0].pointer == "/messages/1/tool_calls"


def test_parts_of_a_message_are_joined_and_a_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (message,) = _chat(messages=[{"role": "developer", "content": parts}]).jobs[0].input.messages or ()
    assert (message.role, message.content) == ("system", "a\nb")


def test_a_name_that_no_model_can_have_is_that_of_an_unknown_model() -> None:
    with pytest.raises(ModelUnknownError):
        _chat(model="no such model!")


@pytest.mark.parametrize("seed", [0, 5, -1, -(2**63), 2**63 - 1])
def test_seeds_of_either_sign_become_ours_and_each_choice_has_the_next_one(seed: int) -> None:
    wanted = _chat(seed=seed, n=3)
    first = wanted.jobs[0].params.seed
    assert first is not None
    choices = choices_of((_made(first),), wanted, None)
    assert [choice.spec.params.seed for choice in choices] == [(seed + index) & MAX_SEED for index in range(3)]
    assert {choice.group_id for choice in choices} == {"job_first"}
    assert [choice.group_index for choice in choices] == [0, 1, 2]
    assert len({choice.spec.job_id for choice in choices}) == 3


def test_one_choice_needs_no_group_unless_one_is_given() -> None:
    wanted = _chat()
    assert choices_of((_made(1),), wanted, None)[0].group_id is None
    assert choices_of((_made(1),), wanted, "batch_x", 128)[0].group_index == 128
