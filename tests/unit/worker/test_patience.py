"""Calls to a live state that is away are asked again, until the worker stops."""

from __future__ import annotations

import pytest

from sllm_tasks.errors import StaleError, UnavailableError
from sllm_tasks.worker.patience import Patience


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    monkeypatch.setattr("sllm_tasks.worker.patience._RETRY_S", 0.0)
    return Patience()


def test_a_call_is_asked_again_until_there_is_an_answer(patience: Patience) -> None:
    answers = iter([UnavailableError("away"), UnavailableError("away"), "here"])

    def call() -> str:
        answer = next(answers)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    assert patience.until_reachable(call, "a job") == "here"


def test_a_worker_that_stops_does_not_ask_again(patience: Patience) -> None:
    num_calls = 0

    def call() -> str:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 3:
            patience.lose()
        raise UnavailableError("away")

    with pytest.raises(UnavailableError, match="away"):
        patience.until_reachable(call, "a job")
    assert num_calls == 3


def test_other_errors_are_the_callers(patience: Patience) -> None:
    def call() -> str:
        raise StaleError("gone")

    with pytest.raises(StaleError):
        patience.until_reachable(call, "a job")
