"""What the death, the sleep or the wrong clock of a process may not do: lose a job, change it, or keep what it held."""

import pytest

from tests.faults.cases import processes
from tests.support.arena import Arena

pytestmark = pytest.mark.slow


def test_a_message_dies_with_its_worker_and_the_job_does_not(arena: Arena) -> None:
    arena.meet(processes.worker_killed_before_claim).require()


def test_a_worker_that_dies_while_it_loads_leaves_nothing_reserved(arena: Arena) -> None:
    arena.meet(processes.worker_killed_while_loading).require()


def test_a_worker_that_dies_in_prefill_costs_its_jobs_an_attempt(arena: Arena) -> None:
    arena.meet(processes.worker_killed_in_prefill).require()


def test_jobs_go_on_from_the_tokens_that_a_dead_worker_has_written(arena: Arena) -> None:
    arena.meet(processes.worker_killed_at_a_token).require()


def test_a_load_survives_the_death_of_a_worker(arena: Arena) -> None:
    arena.meet(processes.worker_killed_under_load).require()


def test_a_worker_that_is_told_to_stop_hands_its_jobs_over_and_ends_with_status_0(arena: Arena) -> None:
    arena.meet(processes.worker_told_to_stop).require()


def test_a_worker_that_stops_without_a_broker_leaves_its_jobs_to_others(arena: Arena) -> None:
    arena.meet(processes.worker_told_to_stop_without_a_broker).require()


def test_a_worker_that_was_cut_off_writes_nothing_more_when_it_is_back(arena: Arena) -> None:
    arena.meet(processes.worker_cut_off).require()


def test_a_worker_may_have_a_wrong_clock(arena: Arena) -> None:
    arena.meet(processes.worker_with_a_wrong_clock).require()


def test_jobs_wait_for_a_dead_router_to_be_replaced(arena: Arena) -> None:
    arena.meet(processes.router_killed).require()


def test_a_leader_that_slept_finds_its_successor_in_charge(arena: Arena) -> None:
    arena.meet(processes.router_frozen).require()


def test_a_router_may_have_a_wrong_clock(arena: Arena) -> None:
    arena.meet(processes.router_with_a_wrong_clock).require()


def test_what_control_had_not_committed_is_committed_by_the_next_one(arena: Arena) -> None:
    arena.meet(processes.control_killed).require()


def test_readers_go_on_where_they_were_when_the_web_process_is_back(arena: Arena) -> None:
    arena.meet(processes.web_killed).require()


def test_jobs_do_not_notice_the_death_of_a_node_agent(arena: Arena) -> None:
    arena.meet(processes.node_agent_killed).require()


def test_what_a_dead_supervisor_had_started_ends_and_its_jobs_do_not(arena: Arena) -> None:
    arena.meet(processes.supervisor_killed).require()


def test_jobs_end_after_everything_died_at_once_and_was_started_again(arena: Arena) -> None:
    arena.meet(processes.power_lost).require()
