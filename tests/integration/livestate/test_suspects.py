"""At most one job on its last chance has a place on a gpu."""

from sllm_tasks.jobs import JobStatus, Outcome, StartKind
from sllm_tasks.livestate.router import Applied
from tests.integration.livestate.world import GPU, WORKER, World, job_spec, replica_order


def _apply(world: World, job_id: str, *, suspect: bool = True, attempt: int = 1) -> Applied:
    return world.live.router.apply(
        epoch=world.lead(),
        job_id=job_id,
        attempt=attempt,
        replica_id="replica_1",
        start_kind=StartKind.WARM,
        decision_id="decision_1",
        suspect=suspect,
    )


def _suspect(world: World) -> str:
    gpu = world.live.fleet.gpu(GPU)
    assert gpu is not None
    return gpu.suspect


def _wait_for_places(world: World, *job_ids: str) -> None:
    world.add_gpu(GPU, WORKER, replica_order())
    for job_id in job_ids:
        world.live.jobs.create(job_spec(job_id), fast_path=False)


def test_a_second_suspect_is_refused_and_other_jobs_are_not(world: World) -> None:
    _wait_for_places(world, "job_1", "job_2")
    assert _apply(world, "job_1") is Applied.OK
    assert _suspect(world) == "job_1"
    assert _apply(world, "job_2") is Applied.FULL
    assert _apply(world, "job_2", suspect=False) is Applied.OK


def test_the_end_of_a_suspect_makes_room_for_the_next(world: World) -> None:
    _wait_for_places(world, "job_1", "job_2")
    _apply(world, "job_1")
    world.live.jobs.finish(world.claim("job_1"), Outcome(status=JobStatus.SUCCEEDED))
    assert _suspect(world) == ""
    assert _apply(world, "job_2") is Applied.OK


def test_a_suspect_that_loses_its_worker_is_no_longer_on_that_gpu(world: World) -> None:
    _wait_for_places(world, "job_1")
    _apply(world, "job_1")
    world.claim("job_1")
    world.add_gpu(GPU, "worker_after", replica_order())
    assert _suspect(world) == ""
    waiting = world.live.queues.specs(["job_1"])[0]
    assert waiting is not None
    assert (waiting.attempt, waiting.losses) == (2, 1)
