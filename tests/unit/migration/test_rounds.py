"""When the source stops: the target must have caught up, and must be known to do so."""

from __future__ import annotations

import pytest

from sllm_tasks.migration.rounds import CatchUp, Step, next_step
from sllm_tasks.migration.states import MIGRATION_TRANSITIONS, MigrationState


def catch_up(
    num_rounds: int, gap: int, source_rate: float = 50.0, target_rate: float = 5_000.0, *, last_gap: int = 10_000
) -> CatchUp:
    return CatchUp(num_rounds=num_rounds, gap=gap, last_gap=last_gap, source_rate=source_rate, target_rate=target_rate)


@pytest.mark.parametrize("gap", [0, 1, 1_000])
def test_the_source_never_stops_before_the_target_has_read_a_round(gap: int) -> None:
    assert next_step(catch_up(0, gap, target_rate=0.0)) is Step.ROUND


def test_a_gap_that_is_read_within_a_token_time_is_handed_over() -> None:
    assert next_step(catch_up(1, 90)) is Step.HAND_OVER


def test_a_large_gap_that_shrinks_gets_another_round() -> None:
    assert next_step(catch_up(1, 1_000)) is Step.ROUND


def test_a_gap_that_does_not_shrink_is_handed_over_if_the_pause_is_short() -> None:
    assert next_step(catch_up(1, 40, source_rate=100.0, target_rate=50.0)) is Step.HAND_OVER


def test_a_gap_that_a_round_left_as_it_was_gets_no_other_round() -> None:
    assert next_step(catch_up(2, 500, last_gap=500)) is Step.HAND_OVER


def test_a_first_round_of_few_tokens_does_not_tell_whether_the_gap_shrinks() -> None:
    assert next_step(catch_up(1, 500, last_gap=5)) is Step.ROUND


def test_a_target_that_falls_behind_for_good_is_given_up() -> None:
    assert next_step(catch_up(1, 1_000, source_rate=100.0, target_rate=50.0)) is Step.GIVE_UP


@pytest.mark.parametrize("source_rate", [0.5, 10.0, 100.0, 1_000.0])
@pytest.mark.parametrize("target_rate", [1.0, 100.0, 10_000.0])
@pytest.mark.parametrize("prompt", [32, 2_048])
def test_rounds_end(source_rate: float, target_rate: float, prompt: int) -> None:
    gap, step, num_rounds = prompt, Step.ROUND, 0
    while step is Step.ROUND:
        num_rounds += 1
        gap = int(gap / target_rate * source_rate)
        step = next_step(catch_up(num_rounds, gap, source_rate, target_rate))
        assert num_rounds <= 8


def test_every_state_but_the_ends_can_come_to_an_end() -> None:
    for state in MigrationState:
        assert state.is_terminal or any(after.is_terminal for after in MIGRATION_TRANSITIONS[state])


def test_a_job_that_was_handed_over_does_not_come_back() -> None:
    assert MIGRATION_TRANSITIONS[MigrationState.HANDING_OVER] == {MigrationState.SUCCEEDED, MigrationState.FAILED}
