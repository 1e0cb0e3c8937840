"""Jobs that an engine decodes keep more than half of their rate while it reads for others."""

from __future__ import annotations

from sllm_tasks.engines.reading import ReadingPace

_BUDGET = 512


def read_all(pace: ReadingPace, *, others_decode: bool) -> int:
    pace.begin_step(_BUDGET, others_decode=others_decode)
    num_tokens, pace.left = pace.left, 0
    return num_tokens


def test_a_step_that_reads_is_followed_by_as_much_time_without() -> None:
    pace = ReadingPace()
    found = []
    for _ in range(8):
        found.append(read_all(pace, others_decode=True) > 0)
        pace.end_step(0.03 if found[-1] else 0.01)
    assert found == [True, False, False, False] * 2


def test_nothing_is_held_back_where_nobody_decodes() -> None:
    pace = ReadingPace()
    for _ in range(3):
        assert read_all(pace, others_decode=False) == _BUDGET
        pace.end_step(0.5)


def test_a_step_without_anything_to_read_costs_the_next_one_nothing() -> None:
    pace = ReadingPace()
    pace.begin_step(_BUDGET, others_decode=True)
    pace.end_step(1.0)
    assert read_all(pace, others_decode=True) > 0
