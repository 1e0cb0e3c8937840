"""What the death of a worker may not do to a job that moves: lose it, change it, or leave it with two owners."""

import pytest

from tests.faults.cases import migrations
from tests.support.arena import Arena

pytestmark = pytest.mark.slow


def test_a_source_that_dies_before_a_round_costs_the_job_an_attempt(arena: Arena) -> None:
    arena.meet(migrations.source_killed_before_a_round).require()


def test_a_target_that_dies_at_a_round_leaves_the_job_alone(arena: Arena) -> None:
    arena.meet(migrations.target_killed_at_a_round).require()


def test_a_target_that_dies_before_it_acknowledges_leaves_the_job_alone(arena: Arena) -> None:
    arena.meet(migrations.target_killed_before_it_acknowledges).require()


def test_a_source_that_dies_before_the_hand_over_costs_the_job_an_attempt(arena: Arena) -> None:
    arena.meet(migrations.source_killed_before_the_hand_over).require()


def test_a_job_that_was_handed_over_does_not_miss_its_source(arena: Arena) -> None:
    arena.meet(migrations.source_killed_after_the_hand_over).require()


def test_a_target_that_dies_with_the_job_costs_it_an_attempt(arena: Arena) -> None:
    arena.meet(migrations.target_killed_after_the_hand_over).require()


def test_jobs_survive_the_death_of_source_and_target_in_a_round(arena: Arena) -> None:
    arena.meet(migrations.both_killed_in_a_round).require()


def test_jobs_survive_the_death_of_source_and_target_after_the_hand_over(arena: Arena) -> None:
    arena.meet(migrations.both_killed_after_the_hand_over).require()


def test_moves_survive_the_router_the_broker_and_lost_messages(arena: Arena) -> None:
    arena.meet(migrations.router_and_broker_killed_while_jobs_move).require()
