"""A learned line follows what it is told, and nothing that is told once."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.estimators.line import LearnedLine, Line

_GB = 1e9
#: 0.1 s and 2 GB/s.
_DISK = Line(0.1, 1 / (2 * _GB))
_PRIOR = Line(0.5, 1 / _GB)


def learned(random: Random, num: int, disk: Line = _DISK, noise: float = 0.1) -> LearnedLine:
    line = LearnedLine(_PRIOR)
    for _ in range(num):
        tell(line, random, disk, noise)
    return line


def tell(line: LearnedLine, random: Random, disk: Line, noise: float) -> tuple[float, float]:
    size = random.uniform(1, 60) * _GB
    seconds = disk.at(size) * random.lognormvariate(0, noise)
    line.learn(size, seconds)
    return size, seconds


def test_start_and_rate_are_found_among_noise() -> None:
    line = learned(Random(1), 32)
    assert line.line.per_unit_s == pytest.approx(_DISK.per_unit_s, rel=0.1)
    assert line.at(20 * _GB).seconds == pytest.approx(_DISK.at(20 * _GB), rel=0.05)


def test_the_first_measurement_replaces_the_guess() -> None:
    line = LearnedLine(_PRIOR)
    assert line.at(10 * _GB).seconds == pytest.approx(10.5)
    line.learn(10 * _GB, 3.0)
    assert line.at(10 * _GB).seconds == pytest.approx(3.0)


def test_equal_sizes_give_their_middle_time() -> None:
    line = LearnedLine(_PRIOR)
    for seconds in (2.0, 2.1, 1.9, 2.0, 9.0):
        line.learn(10 * _GB, seconds)
    assert line.at(10 * _GB).seconds == pytest.approx(2.0)


@pytest.mark.parametrize("factor", [0.05, 20.0])
def test_outliers_do_not_move_it(factor: float) -> None:
    random = Random(2)
    line = learned(random, 32)
    for index in range(32):
        size, seconds = tell(line, random, _DISK, 0.1)
        if index % 10 == 0:
            line.learn(size, seconds * factor)
    assert line.at(20 * _GB).seconds == pytest.approx(_DISK.at(20 * _GB), rel=0.15)
    assert line.at(20 * _GB).high_s < 2 * line.at(20 * _GB).seconds


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_changed_disk_is_believed_after_five_loads(factor: float) -> None:
    random = Random(3)
    line, changed = learned(random, 64), Line(_DISK.start_s * factor, _DISK.per_unit_s * factor)
    for _ in range(5):
        tell(line, random, changed, 0.1)
    assert line.at(20 * _GB).seconds == pytest.approx(changed.at(20 * _GB), rel=0.2)
    for _ in range(20):
        tell(line, random, changed, 0.1)
    assert line.at(20 * _GB).low_s < changed.at(20 * _GB) < line.at(20 * _GB).high_s


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_four_of_five_measurements_lie_inside_their_intervals(noise: float, seed: int) -> None:
    random = Random(seed)
    line, inside, num = learned(random, 32, noise=noise), 0, 2_000
    for _ in range(num):
        size = random.uniform(1, 60) * _GB
        predicted = line.at(size)
        seconds = _DISK.at(size) * random.lognormvariate(0, noise)
        inside += predicted.low_s <= seconds <= predicted.high_s
        line.learn(size, seconds)
    assert 0.75 <= inside / num <= 0.85


def test_what_is_no_time_is_ignored() -> None:
    line = LearnedLine(_PRIOR)
    for size, seconds in ((1.0, 0.0), (1.0, -1.0), (1.0, float("nan")), (float("inf"), 1.0), (-1.0, 1.0)):
        line.learn(size, seconds)
    assert line.at(_GB) == LearnedLine(_PRIOR).at(_GB)


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(1e-6, 1e6)), max_size=40), st.floats(0, 1e12))
def test_whatever_it_learned_it_answers_with_an_estimate(samples: list[tuple[float, float]], size: float) -> None:
    line = LearnedLine(_PRIOR)
    for learned_size, seconds in samples:
        line.learn(learned_size, seconds)
    estimate = line.at(size)
    assert 0 <= estimate.low_s <= estimate.seconds <= estimate.high_s
