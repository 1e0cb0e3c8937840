"""The lines of a batch's file: whether they can be worked off, and what they ask for; pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from webapp.errors import FieldError, InvalidFieldsError
from webapp.field_errors import invalid_fields
from webapp.openai.answers import CHAT
from webapp.openai.translate import Wanted, wanted_of_chat, wanted_of_completion
from webapp.schemas.openai import ChatCompletionRequest, CompletionRequest
from webapp.schemas.openai_files import BatchLine

#: Requests of one batch, as OpenAI has it.
MAX_REQUESTS: Final = 50_000
_MAX_PROBLEMS: Final = 50

Json = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawLine:
    """A line that is not blank."""

    #: Among those that are not blank, from 0.
    index: int
    content: bytes
    #: Where the next line begins, in bytes.
    end_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedFile:
    """What a look at a whole file has shown."""

    num_requests: int
    #: Empty where it can be worked off.
    problems: tuple[Json, ...]


def raw_lines(lines: Iterable[bytes], first_index: int = 0, offset: int = 0) -> Iterator[RawLine]:
    """Number the lines of a file, or those from a place on."""
    index = first_index
    for content in lines:
        offset += len(content)
        if content.strip():
            yield RawLine(index=index, content=content, end_offset=offset)
            index += 1


def parse_line(content: bytes) -> BatchLine:
    """Read a line; raises InvalidFieldsError."""
    try:
        return BatchLine.model_validate_json(content)
    except ValidationError as error:
        raise invalid_fields(error, "/") from None


def wanted_of_line(line: BatchLine) -> Wanted:
    """Translate a line; raises InvalidFieldsError or ModelUnknownError."""
    # Strict bodies take tuples only from JSON.
    body = json.dumps(line.body)
    try:
        if line.url == CHAT:
            wanted = wanted_of_chat(ChatCompletionRequest.model_validate_json(body))
        else:
            wanted = wanted_of_completion(CompletionRequest.model_validate_json(body))
    except ValidationError as error:
        raise invalid_fields(error, "/") from None
    if wanted.streams:
        detail = "has no meaning in a batch"
        raise InvalidFieldsError((FieldError(pointer="/stream", detail=detail, code="unsupported_parameter"),))
    return wanted


def check_file(lines: Iterable[RawLine], endpoint: str, max_line_bytes: int) -> CheckedFile:
    """Look at every line as far as can be done without knowing any model."""
    problems: list[Json] = []
    seen: set[str] = set()
    num_requests = 0
    for raw in lines:
        num_requests += 1
        if num_requests > MAX_REQUESTS or len(problems) >= _MAX_PROBLEMS:
            break
        found = _problem_of(raw, endpoint, max_line_bytes, seen)
        if found is not None:
            problems.append({**found, "line": raw.index + 1})
    if num_requests == 0:
        problems.append(_problem("empty_file", "the file has no request"))
    if num_requests > MAX_REQUESTS:
        problems.append(_problem("too_many_requests", f"the file has more than {MAX_REQUESTS} requests"))
    return CheckedFile(num_requests=num_requests, problems=tuple(problems))


def _problem_of(raw: RawLine, endpoint: str, max_line_bytes: int, seen: set[str]) -> Json | None:
    """Say what is wrong with a line, if anything is; its id is then among those seen."""
    if len(raw.content) > max_line_bytes:
        return _problem("request_too_large", f"the line has more than {max_line_bytes} bytes")
    try:
        line = parse_line(raw.content)
    except InvalidFieldsError as error:
        return _problem("invalid_line", str(error))
    if line.url != endpoint:
        return _problem("mismatched_url", f"the batch is one of {endpoint}", "url")
    if line.custom_id in seen:
        return _problem("duplicate_custom_id", "another line has the same custom_id", "custom_id")
    seen.add(line.custom_id)
    return None


def _problem(code: str, message: str, param: str | None = None) -> Json:
    return {"code": code, "message": message, "param": param, "line": None}
