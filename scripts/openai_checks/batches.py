"""Files, and batches of their requests."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai.types import Batch

from scripts.openai_checks.world import QUESTION, World, check, content_of, wait_until

_ENDED = {"completed", "failed", "expired", "cancelled"}


def _line(world: World, custom_id: str, **fields: Any) -> dict[str, Any]:
    body = {
        "model": world.model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 8,
        "ignore_eos": True,
        **fields,
    }
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}


def _upload(world: World, lines: list[dict[str, Any]]) -> str:
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return world.openai.files.create(file=("requests.jsonl", content), purpose="batch").id


def _start(world: World, lines: list[dict[str, Any]], window: str = "24h") -> Batch:
    return world.openai.batches.create(
        input_file_id=_upload(world, lines),
        endpoint="/v1/chat/completions",
        completion_window=window,  # type: ignore[arg-type] # shorter ones are ours
        metadata={"made by": "conformance"},
    )


def _ended(world: World, batch: Batch) -> Batch:
    wait_until(lambda: world.openai.batches.retrieve(batch.id).status in _ENDED, "the batch ends", 60)
    return world.openai.batches.retrieve(batch.id)


def _records(world: World, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    lines = world.openai.files.content(file_id).text.splitlines()
    return {record["custom_id"]: record for record in map(json.loads, lines)}


@check
def a_file_is_kept_listed_read_and_deleted(world: World) -> None:
    content = b'{"any": "text"}\n' * 100_000
    file = world.openai.files.create(
        file=("big.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (file.object, file.bytes, file.purpose, file.filename) == ("file", len(content), "batch", "big.jsonl")
    assert file.expires_at == file.created_at + 3600
    other = _upload(world, [{"small": 1}])
    listed = [found.id for found in world.openai.files.list(limit=1)]
    assert listed.index(other) < listed.index(file.id)
    assert world.openai.files.retrieve(file.id) == file
    assert world.openai.files.content(file.id).read() == content
    assert world.openai.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        world.openai.files.retrieve(file.id)


@check
def a_file_of_another_purpose_or_none_is_refused(world: World) -> None:
    for purpose, content in (("assistants", b"x"), ("batch", b"")):
        with pytest.raises(openai.BadRequestError) as caught:
            world.openai.files.create(file=("f", content), purpose=purpose)  # type: ignore[arg-type]
        assert caught.value.param in {"purpose", "file"}


@check
def a_batch_answers_its_lines_and_tells_of_those_it_cannot(world: World) -> None:
    lines = [
        *(_line(world, f"line {number}", seed=number, temperature=1.5) for number in range(20)),
        _line(world, "two choices", n=2),
        _line(world, "no such model", model="nobody"),
        _line(world, "too long", max_tokens=1_000_000),
        _line(world, "nonsense", temperature="hot"),
    ]
    batch = _ended(world, _start(world, lines))
    assert batch.status == "completed", batch
    assert batch.metadata == {"made by": "conformance"}
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (24, 21, 3)
    answers = _records(world, batch.output_file_id)
    assert answers.keys() == {line["custom_id"] for line in lines[:21]}
    alone = content_of(world.chat(seed=7, temperature=1.5))
    assert answers["line 7"]["response"]["body"]["choices"][0]["message"]["content"] == alone
    assert len(answers["two choices"]["response"]["body"]["choices"]) == 2
    errors = _records(world, batch.error_file_id)
    assert {name: record["response"]["body"]["error"]["code"] for name, record in errors.items()} == {
        "no such model": "model_not_found",
        "too long": "context_length_exceeded",
        "nonsense": "invalid_type",
    }


@check
def a_file_that_is_no_batch_fails_with_its_lines(world: World) -> None:
    lines = [_line(world, "same"), _line(world, "same"), {"custom_id": "no body"}]
    batch = _ended(world, _start(world, lines))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert [(error.line, error.code) for error in batch.errors.data or []] == [
        (2, "duplicate_custom_id"),
        (3, "invalid_line"),
    ]


@check
def a_batch_that_is_cancelled_keeps_what_it_has(world: World) -> None:
    lines = [_line(world, "short", max_tokens=1), *(_line(world, f"{n}", max_tokens=200) for n in range(40))]
    batch = _start(world, lines)

    def has_an_answer() -> bool:
        counts = world.openai.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed > 0

    wait_until(has_an_answer, "the first line is answered")
    assert world.openai.batches.cancel(batch.id).status == "cancelling"
    ended = _ended(world, batch)
    assert ended.status == "cancelled"
    assert "short" in _records(world, ended.output_file_id)
    assert any(record["error"]["code"] == "batch_cancelled" for record in _records(world, ended.error_file_id).values())
    failed = _ended(world, _start(world, [{"bad": 1}]))
    with pytest.raises(openai.ConflictError):
        world.openai.batches.cancel(failed.id)


@check
def a_batch_whose_window_closes_expires(world: World) -> None:
    ended = _ended(world, _start(world, [_line(world, f"{n}", max_tokens=200) for n in range(60)], window="4s"))
    assert ended.status == "expired"
    assert any(record["error"]["code"] == "batch_expired" for record in _records(world, ended.error_file_id).values())


@check
def batches_are_listed_page_by_page(world: World) -> None:
    listed = list(world.openai.batches.list(limit=2))
    assert len(listed) >= 3
    assert [batch.id for batch in listed] == sorted((batch.id for batch in listed), reverse=True)


@check
def files_and_batches_of_other_tenants_are_not_there(world: World) -> None:
    batch = next(iter(world.openai.batches.list()))
    other = world.another_client(world.new_key("jobs:read", "jobs:write", tenant="somebody-else"))
    assert not other.files.list().data
    assert not other.batches.list().data
    for ask in (
        lambda: other.batches.retrieve(batch.id),
        lambda: other.batches.cancel(batch.id),
        lambda: other.files.content(batch.input_file_id),
        lambda: other.files.delete(batch.input_file_id),
    ):
        with pytest.raises(openai.NotFoundError):
            ask()
