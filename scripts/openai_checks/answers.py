"""Models, chats and completions, whole and streamed."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from scripts.openai_checks.world import FOREVER, QUESTION, World, check, content_of

_MESSAGES: list[Any] = [{"role": "user", "content": QUESTION}]


def _chunks(world: World, **fields: Any) -> list[ChatCompletionChunk]:
    options = {"max_tokens": 8, "extra_body": FOREVER, **fields}
    stream: Any = world.openai.chat.completions.create(model=world.model, messages=_MESSAGES, stream=True, **options)
    return list(stream)


def _text(chunks: list[ChatCompletionChunk], index: int = 0) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices if choice.index == index)


@check
def models_are_listed_and_retrieved(world: World) -> None:
    assert world.model in [model.id for model in world.openai.models.list()]
    model = world.openai.models.retrieve(world.model)
    assert (model.id, model.object) == (world.model, "model")
    assert model.created > 0


@check
def a_chat_is_answered_in_the_strict_form(world: World) -> None:
    answer = world.chat()
    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert answer.object == "chat.completion"
    assert answer.model == world.model
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


@check
def a_raw_response_names_the_request_and_the_job_underneath(world: World) -> None:
    raw = world.openai.chat.completions.with_raw_response.create(
        model=world.model, messages=_MESSAGES, max_tokens=4, extra_body=FOREVER
    )
    assert raw.headers["x-request-id"].startswith("req_")
    job = world.native.get_job(raw.headers["x-job-id"])
    assert job.status == "succeeded"
    assert job.result().text == content_of(raw.parse())


@check
def a_stream_is_role_content_and_finish_reason_and_says_what_the_whole_answer_says(world: World) -> None:
    chunks = _chunks(world)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    assert _text(chunks) == content_of(world.chat())


@check
def a_stream_ends_with_usage_where_that_is_wanted(world: World) -> None:
    *_, last = _chunks(world, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage == world.chat().usage


@check
def the_stream_helper_collects_an_answer_that_ends_by_itself(world: World) -> None:
    text = content_of(world.chat())
    with world.openai.chat.completions.stream(
        model=world.model, messages=_MESSAGES, max_tokens=8, stop=text[-1], extra_body=FOREVER
    ) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    assert {"chunk"} <= kinds
    assert answer.choices[0].finish_reason == "stop"
    assert text.startswith(answer.choices[0].message.content or "")


@check
def the_stream_helper_raises_its_error_for_an_answer_that_was_cut(world: World) -> None:
    with (
        world.openai.chat.completions.stream(
            model=world.model, messages=_MESSAGES, max_tokens=4, extra_body=FOREVER
        ) as stream,
        pytest.raises(openai.LengthFinishReasonError),
    ):
        stream.get_final_completion()


@check
def a_stop_string_ends_an_answer_and_is_no_part_of_it(world: World) -> None:
    text = content_of(world.chat())
    answer = world.chat(stop=[text[-1], "never said"])
    assert answer.choices[0].finish_reason == "stop"
    assert content_of(answer) == text[: text.index(text[-1])]


@check
def max_completion_tokens_means_max_tokens(world: World) -> None:
    answer = world.chat(max_tokens=openai.omit, max_completion_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


@check
def a_seed_repeats_an_answer_and_another_one_does_not(world: World) -> None:
    texts = [content_of(world.chat(temperature=1.5, seed=seed, max_tokens=12)) for seed in (-7, -7, 8)]
    assert texts[0] == texts[1] != texts[2]


@check
def n_answers_are_those_of_the_next_seeds(world: World) -> None:
    many = world.chat(n=3, temperature=1.5, seed=40)
    assert [choice.index for choice in many.choices] == [0, 1, 2]
    single = [content_of(world.chat(temperature=1.5, seed=40 + index)) for index in range(3)]
    assert [choice.message.content for choice in many.choices] == single
    assert many.usage is not None
    assert many.usage.completion_tokens == 24


@check
def n_answers_are_streamed_side_by_side(world: World) -> None:
    chunks = _chunks(world, n=2, temperature=1.5, seed=40)
    whole = world.chat(n=2, temperature=1.5, seed=40)
    assert [_text(chunks, index) for index in range(2)] == [choice.message.content for choice in whole.choices]
    assert sum(choice.finish_reason is not None for chunk in chunks for choice in chunk.choices) == 2


@check
def log_probabilities_come_for_every_token_with_the_likeliest_ones(world: World) -> None:
    answer = world.chat(logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 8
    first = logprobs.content[0]
    assert first.logprob <= 0
    assert len(first.top_logprobs) == 2
    # Greedy: the chosen one is the likeliest.
    assert first.top_logprobs[0].token == first.token
    streamed = [chunk.choices[0].logprobs for chunk in _chunks(world, logprobs=True)]
    assert sum(len(part.content or []) for part in streamed if part is not None) == 8


@check
def messages_may_have_parts_and_developers(world: World) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "and two"}]},
    ]
    answer = world.openai.chat.completions.create(
        model=world.model, messages=messages, max_tokens=2, extra_body=FOREVER
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


@check
def a_legacy_completion_is_answered(world: World) -> None:
    answer = world.openai.completions.create(
        model=world.model, prompt=QUESTION, max_tokens=5, logprobs=2, extra_body=FOREVER
    )
    assert answer.object == "text_completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.tokens or []) == 5
    assert answer.choices[0].logprobs.text_offset is not None


@check
def several_prompts_and_token_ids_are_completed_in_order(world: World) -> None:
    def completed(prompt: Any) -> list[str]:
        answer = world.openai.completions.create(model=world.model, prompt=prompt, max_tokens=5, extra_body=FOREVER)
        return [choice.text for choice in sorted(answer.choices, key=lambda choice: choice.index)]

    assert completed([QUESTION, "three"]) == completed(QUESTION) + completed("three")
    assert completed([[20, 21], [22]]) == completed([20, 21]) + completed([22])


@check
def a_legacy_completion_is_streamed(world: World) -> None:
    fields: dict[str, Any] = {"model": world.model, "prompt": QUESTION, "max_tokens": 6, "extra_body": FOREVER}
    whole = world.openai.completions.create(**fields)
    chunks = list(world.openai.completions.create(**fields, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


@check
def the_asynchronous_client_asks_and_streams_many_at_once(world: World) -> None:
    async def ask_all() -> tuple[list[str], list[str]]:
        async with world.asynchronous() as client:
            fields: dict[str, Any] = {"model": world.model, "max_tokens": 6, "extra_body": FOREVER}

            async def ask(question: str) -> str:
                messages: list[Any] = [{"role": "user", "content": question}]
                return content_of(await client.chat.completions.create(messages=messages, **fields))

            async def stream(question: str) -> str:
                messages: list[Any] = [{"role": "user", "content": question}]
                found = ""
                async for chunk in await client.chat.completions.create(messages=messages, stream=True, **fields):
                    found += chunk.choices[0].delta.content or ""
                return found

            questions = [f"question {number}" for number in range(4)]
            asked = await asyncio.gather(*map(ask, questions), *map(stream, questions))
            return list(asked[:4]), list(asked[4:])

    whole, streamed = asyncio.run(ask_all())
    assert whole == streamed
