"""How often errors to come are in the interval that the last ones gave."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from sllm_tasks.estimators.recent_errors import RecentErrors

_NUM_TRIALS = 1_000


@pytest.mark.parametrize("num_known", [10, 14, 17, 18, 64])
@pytest.mark.parametrize("draw", [Random.random, lambda drawn: drawn.lognormvariate(0, 1)], ids=["even", "skewed"])
def test_four_of_five_errors_to_come_are_inside_or_some_more_however_many_are_known(
    num_known: int, draw: Callable[[Random], float]
) -> None:
    drawn, num_inside = Random(num_known), 0
    for _ in range(_NUM_TRIALS):
        errors = RecentErrors()
        for _ in range(num_known):
            errors.add(draw(drawn))
        assert errors.middle is not None
        low, high = errors.middle
        num_inside += low <= draw(drawn) <= high
    # Ranks are whole numbers: of 18 errors the least and the largest give 89 %.
    assert 0.78 < num_inside / _NUM_TRIALS < 0.92


def test_too_few_errors_say_nothing_and_the_oldest_are_forgotten() -> None:
    errors = RecentErrors()
    for _ in range(9):
        errors.add(1.0)
    assert errors.middle is None
    for _ in range(64):
        errors.add(2.0)
    assert errors.middle == (2.0, 2.0)
    errors.clear()
    assert errors.middle is None
