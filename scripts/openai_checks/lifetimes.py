"""Cold starts, clients that leave, and time-outs."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest

from scripts.openai_checks.world import FOREVER, QUESTION, World, check, wait_until

_LONG: dict[str, Any] = {"max_tokens": 200, "extra_body": FOREVER}
_MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]


@check
def a_stream_says_that_it_lives_before_its_first_token(world: World) -> None:
    response = world.openai.chat.completions.with_streaming_response.create(
        model=world.model, messages=_MESSAGES, stream=True, max_tokens=2, extra_body=FOREVER
    )
    with response as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[0] == ": keep-alive"
    assert lines[-1] == "data: [DONE]"


@check
def a_cold_model_is_loaded_for_a_stream_that_waits(world: World) -> None:
    def is_cold() -> bool:
        return not any(gpu["replicas"] for node in world.native.nodes() for gpu in node["gpus"])

    # Keep-alive is short in the tests' cluster; on another one this is a warm start.
    deadline_s = time.monotonic() + 5
    while not is_cold() and time.monotonic() < deadline_s:
        time.sleep(0.1)
    stream: Any = world.openai.chat.completions.create(model=world.model, messages=_MESSAGES, stream=True, **_LONG)
    with stream:
        assert next(iter(stream)).choices[0].delta.role == "assistant"


@check
def closing_a_stream_cancels_its_job(world: World) -> None:
    raw = world.openai.chat.completions.with_raw_response.create(
        model=world.model, messages=_MESSAGES, stream=True, **_LONG
    )
    stream: Any = raw.parse()
    next(iter(stream))
    stream.close()
    job = world.native.get_job(raw.headers["x-job-id"])
    wait_until(lambda: job.refresh().status == "canceled", "the job is canceled")


@check
def a_client_that_gives_up_waiting_cancels_its_job(world: World) -> None:
    client = world.another_client(world.api_key, timeout=0.7)
    marker = {"conformance": str(time.time_ns())}
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model=world.model, messages=_MESSAGES, metadata=marker, **_LONG)
    (job,) = [job for job in world.native.jobs() if job.refresh().raw["metadata"] == marker]
    wait_until(lambda: job.refresh().status == "canceled", "the job is canceled")


@check
def a_job_whose_client_left_its_key_behind_goes_on(world: World) -> None:
    headers = {"Idempotency-Key": f"conformance-{time.time_ns()}"}
    fields: dict[str, Any] = {"max_tokens": 60, "extra_body": FOREVER, "extra_headers": headers}
    with pytest.raises(openai.APITimeoutError):
        world.another_client(world.api_key, timeout=0.7).chat.completions.create(
            model=world.model, messages=_MESSAGES, **fields
        )
    answer = world.openai.chat.completions.create(model=world.model, messages=_MESSAGES, **fields)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60


@check
def a_job_that_is_cancelled_elsewhere_is_an_error_in_its_stream(world: World) -> None:
    raw = world.openai.chat.completions.with_raw_response.create(
        model=world.model, messages=_MESSAGES, stream=True, **_LONG
    )
    stream: Any = raw.parse()
    next(iter(stream))
    world.native.get_job(raw.headers["x-job-id"]).cancel()
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.code == "canceled_by_user"


@check
def a_deadline_that_passes_is_told(world: World) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        world.openai.chat.completions.create(
            model=world.model, messages=_MESSAGES, max_tokens=200, extra_body={**FOREVER, "deadline_s": 0.5}
        )
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
