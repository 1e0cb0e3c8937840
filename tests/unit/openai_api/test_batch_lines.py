"""Files of batches are looked at as a whole before any of their lines becomes a job."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from webapp.errors import InvalidFieldsError
from webapp.openai.batch_lines import MAX_REQUESTS, CheckedFile, check_file, parse_line, raw_lines, wanted_of_line

_URL = "/v1/completions"


def _line(custom_id: str = "a", **fields: object) -> bytes:
    record = {"custom_id": custom_id, "method": "POST", "url": _URL, "body": {"model": "m", "prompt": "x"}, **fields}
    return json.dumps(record).encode() + b"\n"


def _check(lines: Iterable[bytes], max_line_bytes: int = 1000) -> CheckedFile:
    return check_file(raw_lines(lines), _URL, max_line_bytes)


def test_lines_are_numbered_without_the_blank_ones_and_say_where_the_next_begins() -> None:
    lines = [b"one\n", b"\n", b"  \n", b"three"]
    found = list(raw_lines(lines))
    assert [(raw.index, raw.content, raw.end_offset) for raw in found] == [(0, b"one\n", 4), (1, b"three", 13)]
    assert list(raw_lines(lines[1:], first_index=1, offset=4)) == found[1:]


def test_a_file_of_sound_lines_has_no_problem() -> None:
    assert _check([_line("a"), _line("b"), b"\n"]) == CheckedFile(num_requests=2, problems=())


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"not json\n", "invalid_line"),
        (b'"text"\n', "invalid_line"),
        (b"\xff\xfe\n", "invalid_line"),
        (_line(custom_id=""), "invalid_line"),
        (_line(method="GET"), "invalid_line"),
        (_line(url="/v1/embeddings"), "invalid_line"),
        (_line(url="/v1/chat/completions"), "mismatched_url"),
        (_line(body="x"), "invalid_line"),
        (_line(unknown=1), "invalid_line"),
        (_line(custom_id="b"), "duplicate_custom_id"),
        (_line(body={"x": "y" * 2000}), "request_too_large"),
    ],
)
def test_what_is_wrong_with_a_line_is_told_with_its_number(line: bytes, code: str) -> None:
    checked = _check([_line("b"), line])
    assert [(problem["code"], problem["line"]) for problem in checked.problems] == [(code, 2)]


def test_a_file_without_requests_or_with_too_many_is_refused() -> None:
    assert [problem["code"] for problem in _check([b"\n"]).problems] == ["empty_file"]
    many = _check(_line(f"{number}") for number in range(MAX_REQUESTS + 1))
    assert [problem["code"] for problem in many.problems] == ["too_many_requests"]


def test_only_so_many_problems_are_told() -> None:
    assert len(_check([b"x\n"] * 1000).problems) == 50


def test_a_line_cannot_be_streamed() -> None:
    with pytest.raises(InvalidFieldsError, match="no meaning in a batch"):
        wanted_of_line(parse_line(_line(body={"model": "m", "prompt": "x", "stream": True})))
