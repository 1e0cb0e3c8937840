"""A running job's move in the live state: who owns it, what is reserved, and what becomes of it when things break."""

from __future__ import annotations

import pytest

from sllm_tasks.cluster import GpuState
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.livestate.router import NewReplica
from sllm_tasks.migration.records import HandOver, Migration, NoticeKind, PrefixHash, StartAnswer
from sllm_tasks.migration.states import MigrationReason, MigrationState
from tests.integration.livestate.world import GPU, OTHER_GPU, SUCCEEDED, World, model_info, replica_order, token

TARGET = "replica_2"
TARGET_WORKER = "worker_b"
PROMPT = (1, 2, 3)


@pytest.fixture
def source(world: World) -> Claim:
    """A job that has two tokens on one gpu, while another one has a replica of its model."""
    claim = world.running_job()
    world.add_gpu(OTHER_GPU, TARGET_WORKER, replica_order(TARGET, gpu=OTHER_GPU))
    world.append(claim, 0, 1)
    return claim


def start(world: World, replica: str = TARGET, migration_id: str = "migration_1", **more: object) -> StartAnswer:
    return world.live.migrations.start(
        migration_id, "job_1", reason=MigrationReason.OPERATOR, target_replica=replica, **more
    )  # type: ignore[arg-type]


def get(world: World) -> Migration:
    migration = world.live.migrations.get("migration_1")
    assert migration is not None
    return migration


def ids(*indexes: int) -> tuple[int, ...]:
    return tuple(token(index).token_id for index in indexes)


def prefix(*indexes: int) -> str:
    return str(PrefixHash(PROMPT).add(ids(*indexes)))


def acknowledge(world: World, round_: int, *indexes: int, worker: str = TARGET_WORKER) -> bool:
    return world.live.migrations.acknowledge(
        "migration_1", worker, round_=round_, num_tokens=len(indexes), prefix_hash=prefix(*indexes), seconds=0.1
    )


def caught_up(world: World, claim: Claim) -> None:
    """The target has the job's first two tokens."""
    assert start(world) is StartAnswer.OK
    assert acknowledge(world, 0)
    assert world.live.migrations.send_round("migration_1", claim, 1, 0, ids(0, 1))
    assert world.live.migrations.tokens("migration_1", 0) == ids(0, 1)
    assert acknowledge(world, 1, 0, 1)


def hand_over(world: World, claim: Claim, *rest: int) -> HandOver:
    return world.live.migrations.hand_over(
        "migration_1", claim, num_acked=2, prefix_hash=prefix(0, 1), token_ids=ids(*rest)
    )


def target_claim(world: World, source: Claim) -> Claim:
    return Claim(
        spec=source.spec,
        attempt=source.attempt,
        epoch=get(world).new_epoch,
        replica_id=TARGET,
        start_kind=source.start_kind,
    )


def test_a_job_moves_with_its_last_tokens_and_goes_on_there(world: World, source: Claim) -> None:
    caught_up(world, source)
    world.append(source, 2)
    assert hand_over(world, source, 2) is HandOver.OK
    assert (world.num_jobs("replica_1"), world.num_jobs(TARGET)) == (0, 1)
    target = target_claim(world, source)
    assert world.live.migrations.tokens("migration_1", 0) == ids(0, 1, 2)
    assert world.append(source, 3) == "stale"
    assert world.append(target, 3) == "ok"
    ended = get(world)
    assert (ended.state, ended.round_acked) == (MigrationState.SUCCEEDED, 1)
    assert ended.pause_ms is not None
    view = world.live.jobs.view("job_1")
    assert view is not None
    assert (view.gpu, view.owner, view.attempt, view.num_tokens) == (OTHER_GPU, TARGET_WORKER, 1, 4)
    assert world.live.jobs.finish(target, SUCCEEDED) == "ok"
    assert (world.num_jobs("replica_1"), world.num_jobs(TARGET)) == (0, 0)


def test_readers_and_the_ledger_hear_of_every_state(world: World, source: Claim) -> None:
    caught_up(world, source)
    hand_over(world, source)
    world.append(target_claim(world, source), 2)
    told = [event.data["state"] for event in world.live.jobs.events("job_1") if event.kind == "migration"]
    assert told == ["planned", "catching_up", "handing_over", "succeeded"]
    reports = world.live.reports.read(1_000, 1)
    assert [report.data["state"] for report in reports if report.kind == "migration"] == told
    rounds = [report.data for report in reports if report.kind == "migration_round"]
    assert [(each["round"], each["num_tokens"]) for each in rounds] == [(1, len(PROMPT) + 2)]


def test_room_on_the_target_is_kept_from_the_start_and_given_back_at_the_end(world: World, source: Claim) -> None:
    assert start(world) is StartAnswer.OK
    assert world.num_jobs(TARGET) == 1
    assert world.live.fleet.unload_replica(TARGET) is None
    assert world.live.migrations.end("migration_1", MigrationState.ABORTED)
    assert not world.live.migrations.end("migration_1", MigrationState.ABORTED)
    assert (world.num_jobs("replica_1"), world.num_jobs(TARGET)) == (1, 0)
    assert start(world, migration_id="migration_2") is StartAnswer.OK


def test_a_replica_can_be_loaded_for_a_job_that_moves(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0)
    world.add_gpu(OTHER_GPU, TARGET_WORKER)
    assert start(world, new=NewReplica(model=model_info(), gpus=(OTHER_GPU,))) is StartAnswer.OK
    assert world.reserved_bytes(OTHER_GPU) == 10
    assert get(world).state is MigrationState.LOADING
    world.live.fleet.drop_replica(TARGET)
    assert get(world).state is MigrationState.FAILED
    assert world.reserved_bytes(OTHER_GPU) == 0


def test_a_job_has_one_migration_at_a_time(world: World, source: Claim) -> None:
    assert start(world) is StartAnswer.OK
    assert start(world, migration_id="migration_2") is StartAnswer.MOVING


def test_what_cannot_move_says_why(world: World, source: Claim) -> None:
    assert start(world, "replica_1") is StartAnswer.SAME
    assert start(world, "replica_9") is StartAnswer.DEAD
    world.live.fleet.set_gpu_state(OTHER_GPU, GpuState.DRAINING)
    assert start(world) is StartAnswer.DEAD
    assert world.live.jobs.finish(source, SUCCEEDED) == "ok"
    assert start(world) is StartAnswer.NOT_RUNNING


def test_a_job_does_not_move_to_another_replica_of_its_own_gpu(world: World) -> None:
    claim = world.running_job()
    world.append(claim, 0)
    assert start(world, new=NewReplica(model=model_info(), gpus=(GPU,))) is StartAnswer.SAME
    assert world.live.fleet.replica(TARGET) is None


def test_the_source_may_hand_over_twice_when_the_answer_was_lost(world: World, source: Claim) -> None:
    caught_up(world, source)
    assert hand_over(world, source) is HandOver.OK
    assert hand_over(world, source) is HandOver.OK
    world.append(target_claim(world, source), 2)
    assert hand_over(world, source) is HandOver.OK
    assert world.num_jobs(TARGET) == 1


def test_repeated_and_late_messages_change_nothing(world: World, source: Claim) -> None:
    caught_up(world, source)
    assert world.live.migrations.send_round("migration_1", source, 1, 0, ids(0, 1))
    assert acknowledge(world, 0)
    assert acknowledge(world, 1, 0, 1)
    assert not acknowledge(world, 2, 0, 1)
    assert not acknowledge(world, 1, 0, 1, worker="worker_z")
    assert not world.live.migrations.send_round("migration_1", source, 3, 2, ids(2))
    assert (get(world).round_sent, get(world).num_sent) == (1, 2)


def test_a_target_with_other_tokens_does_not_get_the_job(world: World, source: Claim) -> None:
    start(world)
    acknowledge(world, 0)
    world.live.migrations.send_round("migration_1", source, 1, 0, ids(0, 1))
    acknowledge(world, 1, 0, 5)
    assert hand_over(world, source) is HandOver.REFUSED
    assert get(world).state is MigrationState.FAILED
    assert world.append(source, 2) == "ok"


def test_a_source_that_has_not_written_its_tokens_keeps_the_job(world: World, source: Claim) -> None:
    caught_up(world, source)
    assert hand_over(world, source, 2) is HandOver.REFUSED
    assert world.append(source, 2) == "ok"


@pytest.mark.parametrize("how", ["dies", "is drained", "restarts"])
def test_a_target_that_is_gone_leaves_the_job_where_it_is(world: World, source: Claim, how: str) -> None:
    caught_up(world, source)
    if how == "dies":
        world.silence(OTHER_GPU)
        world.live.fleet.reap_gpu(OTHER_GPU)
    elif how == "is drained":
        world.live.fleet.set_gpu_state(OTHER_GPU, GpuState.DRAINING)
    else:
        world.add_gpu(OTHER_GPU, "worker_c", replica_order(TARGET, gpu=OTHER_GPU))
    assert get(world).state is MigrationState.FAILED
    assert hand_over(world, source) is HandOver.REFUSED
    assert world.append(source, 2) == "ok"


def test_a_job_that_ends_first_needs_no_migration(world: World, source: Claim) -> None:
    caught_up(world, source)
    assert world.live.jobs.finish(source, SUCCEEDED) == "ok"
    assert get(world).state is MigrationState.NOT_NEEDED
    assert world.num_jobs(TARGET) == 0


def test_a_source_that_dies_loses_the_migration_and_not_the_job(world: World, source: Claim) -> None:
    caught_up(world, source)
    world.silence(GPU)
    assert world.live.fleet.reap_gpu(GPU) == 1
    assert get(world).state is MigrationState.FAILED
    assert hand_over(world, source) is HandOver.STALE
    assert world.num_jobs(TARGET) == 0
    assert world.live.jobs.waiting() == ["job_1"]
    assert [record.index for record in world.live.jobs.tokens("job_1")] == [0, 1]


def test_a_target_that_dies_with_the_job_gives_it_back_to_the_router(world: World, source: Claim) -> None:
    caught_up(world, source)
    assert hand_over(world, source) is HandOver.OK
    world.silence(OTHER_GPU)
    assert world.live.fleet.reap_gpu(OTHER_GPU) == 1
    assert get(world).state is MigrationState.FAILED
    assert world.live.jobs.waiting() == ["job_1"]


def test_a_job_that_was_handed_over_cannot_be_called_back(world: World, source: Claim) -> None:
    caught_up(world, source)
    hand_over(world, source)
    assert not world.live.migrations.end("migration_1", MigrationState.ABORTED)
    world.live.fleet.set_gpu_state(OTHER_GPU, GpuState.DRAINING)
    assert world.append(target_claim(world, source), 2) == "ok"


def test_the_wish_to_cancel_moves_along(world: World, source: Claim) -> None:
    caught_up(world, source)
    world.live.jobs.cancel("job_1", "user")
    assert hand_over(world, source) is HandOver.OK
    assert world.append(target_claim(world, source), 2) == "cancel"


def test_a_migration_whose_time_is_over_is_found_and_ended(world: World, source: Claim) -> None:
    assert start(world, life_ms=0) is StartAnswer.OK
    assert world.live.migrations.overdue(world.live.now_ms()) == ["migration_1"]
    assert world.live.migrations.end("migration_1", MigrationState.FAILED, "late", only_if_due=True)
    assert world.live.migrations.active() == []


def test_both_sides_hear_of_what_happens_with_the_tokens(world: World, source: Claim) -> None:
    ear = world.live.migrations.listen(OTHER_GPU)
    caught_up(world, source)
    world.append(source, 2)
    hand_over(world, source, 2)
    heard = [notice for _ in range(6) if (notice := ear.wait(0.2)) is not None]
    assert [notice.kind for notice in heard] == [NoticeKind.STATE, NoticeKind.TOKENS, NoticeKind.RESUME]
    assert [(notice.first, notice.token_ids) for notice in heard[1:]] == [(0, ids(0, 1)), (2, ids(2))]
    ear.close()


def test_a_migration_costs_few_bytes_per_token(world: World) -> None:
    claim = world.running_job()
    world.add_gpu(OTHER_GPU, TARGET_WORKER, replica_order(TARGET, gpu=OTHER_GPU))
    world.append(claim, *range(500))
    start(world)
    acknowledge(world, 0)
    assert world.live.migrations.send_round("migration_1", claim, 1, 0, ids(*range(500)))
    assert get(world).num_bytes <= 16 * 500 + 4096
