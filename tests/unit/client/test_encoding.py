"""What JSON cannot say is refused by the client, which names the field."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from types import MappingProxyType

import pytest

from sllm_tasks.client.encoding import encode_body
from sllm_tasks.client.errors import ClientError, UnsendableError


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"params": {"temperature": float("nan")}}, "/params/temperature: must be a finite number, found nan"),
        ({"deadline_s": float("inf")}, "/deadline_s: must be a finite number, found inf"),
        ({"input": {"prompt": "a\ud800"}}, "/input/prompt: must be text that can be written as UTF-8"),
        ({"params": {"stop": ["fine", "\udfff"]}}, "/params/stop/1: must be text that can be written as UTF-8"),
        ({"deadline_s": datetime.now(UTC)}, "/deadline_s: must be text, a number, a list or an object, found datetime"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(body: dict[str, object], message: str) -> None:
    with pytest.raises(UnsendableError, match=message) as raised:
        encode_body(body)
    assert isinstance(raised.value, ClientError)


def test_a_name_that_cannot_be_sent_is_refused_by_where_it_stands() -> None:
    with pytest.raises(UnsendableError, match=r"^/metadata: must be text that can be written as UTF-8"):
        encode_body({"metadata": {"\ud800": "a"}})


def test_a_mapping_need_not_be_a_dict() -> None:
    assert json.loads(encode_body({"metadata": MappingProxyType({"a": "b"})})) == {"metadata": {"a": "b"}}


def test_whatever_json_can_say_is_sent_as_it_is() -> None:
    body = {"text": "zwölf \N{GRINNING FACE}\x00", "list": [1, 2.5, True, None], "none": {}}
    assert json.loads(encode_body(body)) == body
