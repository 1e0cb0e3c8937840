"""What was found out once is not found out again, unless that failed or it was forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sllm_tasks.engines.memo import Memo


def test_what_failed_is_tried_again_and_what_is_known_never() -> None:
    memo, runs = Memo[int](4), list[str]()

    def answer(value: int) -> Callable[[], int]:
        def run() -> int:
            runs.append(f"{value}")
            if value < 0:
                raise ValueError("not now")
            return value

        return run

    with pytest.raises(ValueError, match="not now"):
        memo.find("key", answer(-1))
    assert memo.find("key", answer(1)) == memo.find("key", answer(2)) == 1
    assert memo.find("other", answer(3)) == 3
    assert runs == ["-1", "1", "3"]


def test_of_too_many_what_was_not_asked_for_longest_is_forgotten() -> None:
    memo = Memo[str](2)
    for key in ("a", "b", "a", "c"):
        memo.find(key, lambda key=key: key)
    assert memo.find("a", lambda: "anew") == "a"
    assert memo.find("b", lambda: "anew") == "anew"
