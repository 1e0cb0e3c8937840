"""Calls to a live state that is away are asked again."""

from __future__ import annotations

import pytest

from sllm_tasks.errors import StaleError, UnavailableError
from sllm_tasks.worker.patience import until_reachable


def test_a_call_is_asked_again_until_there_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sllm_tasks.worker.patience._RETRY_S", 0.0)
    answers = iter([UnavailableError("away"), UnavailableError("away"), "here"])

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    assert until_reachable(call, "a job") == "here"


def test_other_errors_are_the_callers() -> None:
    def call() -> str:
        raise StaleError("gone")

    with pytest.raises(StaleError):
        until_reachable(call, "a job")
