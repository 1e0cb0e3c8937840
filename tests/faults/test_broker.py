"""The broker and the live state in it may be away, empty, full or hard to reach: no job is lost or done twice."""

import pytest

from tests.faults.cases import broker
from tests.support.arena import Arena

pytestmark = pytest.mark.slow


def test_a_broker_that_comes_back_with_its_file_costs_a_pause(arena: Arena) -> None:
    arena.meet(broker.broker_killed).require()


def test_a_broker_that_comes_back_empty_costs_an_attempt(arena: Arena) -> None:
    arena.meet(broker.broker_killed_without_its_file).require()


def test_a_broker_that_is_silent_for_long_costs_no_job_its_worker(arena: Arena) -> None:
    arena.meet(broker.broker_frozen).require()


def test_jobs_are_published_again_when_the_live_state_is_lost(arena: Arena) -> None:
    arena.meet(broker.broker_emptied).require()


def test_nobody_dies_of_a_broker_without_memory(arena: Arena) -> None:
    arena.meet(broker.broker_out_of_memory).require()


def test_every_process_survives_the_loss_of_its_connections(arena: Arena) -> None:
    arena.meet(broker.connections_cut).require()
