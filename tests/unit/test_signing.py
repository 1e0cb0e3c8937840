"""Triggers: what this cluster signed for this task is accepted, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.errors import MessageRejectedError
from sllm_tasks.signing import Signer, Trigger

_SIGNER = Signer("a secret")
_TRIGGER = Trigger(task="sllm.run_job", subject="job_1", attempt=1, expires_ms=1_000)


def _altered(**changes: Any) -> dict[str, Any]:
    return {**_SIGNER.sign(_TRIGGER), **changes}


def _without(name: str) -> dict[str, Any]:
    message = _SIGNER.sign(_TRIGGER)
    del message[name]
    return message


def test_a_signed_trigger_is_read_back() -> None:
    assert _SIGNER.check("sllm.run_job", _SIGNER.sign(_TRIGGER)) == _TRIGGER


def test_processes_with_the_same_secret_understand_each_other() -> None:
    assert Signer("a secret").check("sllm.run_job", _SIGNER.sign(_TRIGGER)) == _TRIGGER


def test_another_secret_is_refused() -> None:
    with pytest.raises(MessageRejectedError, match="not signed by this cluster"):
        Signer("another secret").check("sllm.run_job", _SIGNER.sign(_TRIGGER))


@pytest.mark.parametrize(
    "change", [{"subject": "job_2"}, {"attempt": 2}, {"expires_ms": 2_000}, {"task": "sllm.route"}], ids=str
)
def test_an_altered_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(MessageRejectedError):
        _SIGNER.check("sllm.run_job", _altered(**change))


def test_a_trigger_for_another_task_is_refused_although_it_is_signed() -> None:
    with pytest.raises(MessageRejectedError, match=r"is for sllm\.run_job"):
        _SIGNER.check("sllm.unload_replica", _SIGNER.sign(_TRIGGER))


@pytest.mark.parametrize("name", ["mac", "task", "subject", "attempt", "expires_ms"])
def test_a_missing_field_is_refused(name: str) -> None:
    with pytest.raises(MessageRejectedError):
        _SIGNER.check("sllm.run_job", _without(name))


def test_a_field_too_many_is_refused() -> None:
    with pytest.raises(MessageRejectedError, match="not a trigger"):
        _SIGNER.check("sllm.run_job", _altered(prompt="hello"))


@pytest.mark.parametrize(
    "change",
    [{"mac": None}, {"mac": 1}, {"mac": "é"}, {"mac": ""}, {"attempt": True}, {"attempt": 1.0}, {"attempt": "1"}],
    ids=str,
)
def test_a_value_of_another_type_is_refused_even_where_it_is_equal(change: dict[str, Any]) -> None:
    with pytest.raises(MessageRejectedError):
        _SIGNER.check("sllm.run_job", _altered(**change))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["task", "subject", "attempt", "expires_ms", "mac", "x"]), _JSON))
def test_no_message_that_was_not_signed_is_accepted_or_breaks_the_check(message: dict[str, Any]) -> None:
    with pytest.raises(MessageRejectedError):
        _SIGNER.check("sllm.run_job", message)
