"""A message may come twice, late, from nobody or be no message at all; a job may kill whoever runs it."""

import pytest

from tests.faults.cases import messages
from tests.support.arena import Arena

pytestmark = pytest.mark.slow


def test_duplicate_and_stale_messages_change_nothing(arena: Arena) -> None:
    arena.meet(messages.messages_twice_and_stale).require()


def test_messages_that_this_cluster_has_not_signed_are_counted_and_dropped(arena: Arena) -> None:
    arena.meet(messages.messages_forged).require()


def test_junk_on_a_queue_is_counted_and_dropped(arena: Arena) -> None:
    arena.meet(messages.junk_on_queues).require()


def test_a_closed_replica_is_freed_though_the_message_for_it_is_lost(arena: Arena) -> None:
    arena.meet(messages.unloads_lost).require()


def test_a_job_that_kills_three_workers_is_poison_and_takes_no_other_job_with_it(arena: Arena) -> None:
    arena.meet(messages.poison).require()
