"""What the tokens of a job are worth: all of them exact, or not, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sllm_tasks.jobs import EqualityClass, Exactness, JobPhase
from tests.integration.livestate.world import GPU, OTHER_GPU, WORKER, World, job_spec, replica_order

EXACT = EqualityClass(exactness=Exactness.EXACT, fingerprint="cpu bfloat16, trial a")
OTHER_EXACT = EqualityClass(exactness=Exactness.EXACT, fingerprint="cpu bfloat16, trial b")
TOKEN = EqualityClass(exactness=Exactness.TOKEN, fingerprint="cpu bfloat16", downgrade="rows differ")


def goes_on(world: World, first: EqualityClass, second: EqualityClass, *, num_tokens: int) -> EqualityClass | None:
    """Run a job on a replica of one class until its worker dies, and then on one of another class."""
    world.open_gates()
    world.add_gpu(GPU, WORKER, replace(replica_order(), equality=first))
    world.live.jobs.create(job_spec())
    claim = world.claim()
    world.live.jobs.set_phase(claim, JobPhase.PREFILL)
    if num_tokens:
        world.append(claim, *range(num_tokens))
    world.live.fleet.reap_gpu(GPU, WORKER)
    world.add_gpu(OTHER_GPU, "worker_b", replace(replica_order("replica_2", gpu=OTHER_GPU), equality=second))
    world.apply("job_1", "replica_2", attempt=2)
    later = world.claim(attempt=2, gpu=OTHER_GPU, worker="worker_b")
    world.live.jobs.set_phase(later, JobPhase.PREFILL)
    view = world.live.jobs.view("job_1")
    assert view is not None
    return view.equality


def test_a_job_that_stays_in_one_exact_class_is_exact(world: World) -> None:
    assert goes_on(world, EXACT, EXACT, num_tokens=3) == EXACT


def test_a_job_that_goes_on_in_another_class_is_not_exact_and_says_so(world: World) -> None:
    equality = goes_on(world, EXACT, OTHER_EXACT, num_tokens=3)
    assert equality is not None
    assert (equality.exactness, equality.fingerprint) == (Exactness.TOKEN, OTHER_EXACT.fingerprint)
    assert EXACT.fingerprint in equality.downgrade


def test_a_job_without_tokens_begins_anew_in_its_next_class(world: World) -> None:
    assert goes_on(world, TOKEN, OTHER_EXACT, num_tokens=0) == OTHER_EXACT


@pytest.mark.parametrize("later", [EXACT, TOKEN])
def test_a_job_that_was_not_exact_once_never_is_again(world: World, later: EqualityClass) -> None:
    equality = goes_on(world, TOKEN, later, num_tokens=3)
    assert equality == EqualityClass(
        exactness=Exactness.TOKEN, fingerprint=later.fingerprint, downgrade=TOKEN.downgrade
    )


def test_a_job_that_leaves_its_exact_class_keeps_the_replicas_reason(world: World) -> None:
    assert goes_on(world, EXACT, TOKEN, num_tokens=3) == TOKEN


def test_a_replica_shows_its_class_once_it_is_loaded(world: World) -> None:
    world.add_gpu(GPU, WORKER, replace(replica_order(), equality=EXACT))
    order = world.live.fleet.replica("replica_1")
    assert order is not None
    assert order.equality == EXACT
