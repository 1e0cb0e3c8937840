"""Errors: each as the exception that users of the package expect."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import openai
import pytest

from scripts.openai_checks.world import FOREVER, QUESTION, World, check


def _refused(ask: Callable[[], object], kind: type[openai.APIStatusError]) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        ask()
    assert type(caught.value) is kind, repr(caught.value)
    assert (caught.value.request_id or "").startswith("req_")
    return caught.value


@check
def a_key_that_is_none_is_an_authentication_error(world: World) -> None:
    error = _refused(world.another_client("sllm_wrong").models.list, openai.AuthenticationError)
    assert (error.status_code, error.code) == (401, "invalid_api_key")


@check
def a_key_without_the_scope_is_a_permission_error(world: World) -> None:
    client = world.another_client(world.new_key("models:read"))
    assert client.models.list().data
    error = _refused(lambda: client.completions.create(model=world.model, prompt="x"), openai.PermissionDeniedError)
    assert error.code == "insufficient_permissions"


@check
def an_unknown_model_is_not_found_whatever_its_name_is(world: World) -> None:
    for name in ("nobody/knows-it", "no such model!"):
        error = _refused(partial(_ask, world, name), openai.NotFoundError)
        assert (error.code, error.param) == ("model_not_found", "model")
    error = _refused(lambda: world.openai.models.retrieve("nobody"), openai.NotFoundError)
    assert error.code == "model_not_found"


def _ask(world: World, model: str) -> object:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    return world.openai.chat.completions.create(model=model, messages=messages)


@check
def a_prompt_that_is_too_long_is_refused_before_anything_is_streamed(world: World) -> None:
    error = _refused(lambda: world.chat("long " * 5_000), openai.BadRequestError)
    assert error.code == "context_length_exceeded"
    error = _refused(lambda: world.chat("long " * 5_000, stream=True), openai.BadRequestError)
    assert error.code == "context_length_exceeded"
    error = _refused(lambda: world.chat(max_tokens=9_999_999), openai.BadRequestError)
    assert error.code == "context_length_exceeded"


@check
def a_parameter_that_is_not_built_is_refused_by_name(world: World) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    error = _refused(lambda: world.chat(tools=tools), openai.BadRequestError)
    assert (error.code, error.param) == ("unsupported_parameter", "tools")
    error = _refused(lambda: world.chat(frequency_penalty=0.5), openai.BadRequestError)
    assert error.param == "frequency_penalty"


@check
def a_value_that_is_none_is_refused_by_name(world: World) -> None:
    error = _refused(lambda: world.chat(temperature=9), openai.BadRequestError)
    assert error.param == "temperature"
    error = _refused(lambda: world.chat(n="many"), openai.BadRequestError)
    assert (error.param, error.code) == ("n", "invalid_type")


@check
def a_parameter_without_effect_is_named_in_the_answer(world: World) -> None:
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    raw = world.openai.chat.completions.with_raw_response.create(
        model=world.model,
        messages=messages,
        max_tokens=1,
        user="somebody",
        frequency_penalty=0,
        extra_body={**FOREVER, "invented": 1},
    )
    assert raw.headers["x-sllm-ignored-params"] == "invented, user"


@check
def what_is_not_there_is_not_found(world: World) -> None:
    error = _refused(lambda: world.openai.embeddings.create(model=world.model, input="x"), openai.NotFoundError)
    assert error.code == "unknown_url"


@check
def an_idempotency_key_gives_one_answer_to_one_body(world: World) -> None:
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    fields: dict[str, Any] = {"temperature": 1.5, "n": 2, "extra_headers": headers}
    first, second = world.chat(**fields), world.chat(**fields)
    assert first == second
    _refused(lambda: world.chat("something else", **fields), openai.UnprocessableEntityError)
