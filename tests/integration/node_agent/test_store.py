"""A node's checkpoints are complete or not there, and nobody writes to them."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loaders.writer.convert import convert
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.node_agent.apart.process import WorkCanceledError
from sllm_tasks.node_agent.room import RoomKeeper
from sllm_tasks.node_agent.store import CheckpointStore, disk_bytes
from tests.integration.node_agent.conftest import publish
from tests.support.checkpoints import small_state_dict

MIB = 1 << 20


def leave_unfinished(store: CheckpointStore, name: str, num_bytes: int = MIB) -> Path:
    """Leave what a process that died would."""
    folder = store.work / f".{name}.partial"
    folder.mkdir()
    (folder / "partition_00000.bin").write_bytes(b"x" * num_bytes)
    return folder


def test_nobody_may_write_to_the_files_of_a_published_checkpoint(store: CheckpointStore) -> None:
    digest = publish(store)
    files = [path for path in store.path(digest).rglob("*") if path.is_file()]
    assert files
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o444}


def test_a_checkpoint_that_is_here_already_stays_and_the_new_copy_goes(store: CheckpointStore) -> None:
    made = store.finished("again")
    digest = convert(small_state_dict(), made).digest
    store.publish(made, digest)
    inode = store.path(digest).stat().st_ino
    convert(small_state_dict(), made)
    store.publish(made, digest)
    assert (store.path(digest).stat().st_ino, store.aside()) == (inode, [])


def test_a_deleted_checkpoint_is_gone_and_deleting_it_again_does_nothing(store: CheckpointStore) -> None:
    digest = publish(store)
    store.delete(digest)
    store.delete(digest)
    assert (store.digests(), store.num_bytes(digest)) == (frozenset(), 0)


def test_what_was_being_deleted_when_the_process_died_is_gone_at_the_next_start(store: CheckpointStore) -> None:
    doomed = store.root / ".doomed-x"
    doomed.mkdir()
    CheckpointStore(store.root)
    assert not doomed.exists()


def test_a_damaged_checkpoint_is_put_aside_and_its_room_is_still_counted(store: CheckpointStore) -> None:
    digest = publish(store)
    used_bytes = RoomKeeper(store, None).usage().used_bytes
    aside = store.quarantine(digest)
    assert (store.digests(), store.aside()) == (frozenset(), [aside])
    assert RoomKeeper(store, None).usage().used_bytes == used_bytes


@pytest.mark.parametrize("digest", ["..", "../source", "a" * 63, "A" * 64, "", "a" * 64 + "\n"])
def test_a_path_never_comes_from_a_message(store: CheckpointStore, digest: str) -> None:
    with pytest.raises(ModelUnusableError) as caught:
        store.path(digest)
    assert caught.value.code is ErrorCode.CHECKPOINT_MISSING
    store.delete(digest)


def test_what_was_asked_about_before_it_came_has_its_size(store: CheckpointStore, tmp_path: Path) -> None:
    digest = publish(CheckpointStore(tmp_path / "elsewhere"))
    assert store.num_bytes(digest) == 0
    publish(store)
    assert store.num_bytes(digest) == disk_bytes(store.path(digest)) > 0


def test_more_than_the_limit_is_refused_with_the_numbers(store: CheckpointStore) -> None:
    used_bytes = store.num_bytes(publish(store))
    rooms = RoomKeeper(store, used_bytes + 1000)
    with rooms.working("x") as room:
        room.grant(1000)
        with pytest.raises(ModelUnusableError, match=f"needs 1001 bytes on the SSD, 1000 of {used_bytes + 1000}"):
            room.grant(1001)


def test_without_a_limit_a_twentieth_of_the_disk_stays_free(store: CheckpointStore) -> None:
    rooms = RoomKeeper(store, None)
    with rooms.working("x") as room, pytest.raises(ModelUnusableError) as caught:
        room.grant(rooms.usage().capacity_bytes + (1 << 30))
    assert caught.value.code is ErrorCode.DISK_FULL


def test_room_is_promised_once_and_given_back_at_the_end(store: CheckpointStore) -> None:
    rooms = RoomKeeper(store, 10 * MIB)
    with rooms.working("first") as first, rooms.working("second") as second:
        first.grant(6 * MIB)
        with pytest.raises(ModelUnusableError):
            second.grant(6 * MIB)
    with rooms.working("second") as second:
        second.grant(6 * MIB)


def test_one_at_a_time_works_under_a_name_and_who_need_not_wait_any_more_does_not(store: CheckpointStore) -> None:
    rooms, order = RoomKeeper(store, None), []

    def work() -> None:
        with rooms.working("x"):
            order.append("second")

    with ThreadPoolExecutor() as threads:
        with rooms.working("x"):
            second = threads.submit(work)
            with pytest.raises(WorkCanceledError), rooms.working("x", lambda: True):
                order.append("canceled")
            with rooms.working("y"):
                order.append("first")
        second.result(timeout=30)
    assert order == ["first", "second"]


def test_what_a_dead_process_left_makes_way_unless_somebody_goes_on_with_it(store: CheckpointStore) -> None:
    idle, resumed = leave_unfinished(store, "idle"), leave_unfinished(store, "resumed")
    rooms = RoomKeeper(store, 4 * MIB)
    with rooms.working("resumed") as room:
        room.grant(2 * MIB)
        assert (idle.exists(), resumed.exists()) == (True, True), "there is room for all"
        room.grant(7 * MIB // 2)
        assert (idle.exists(), resumed.exists()) == (False, True)


def test_how_full_it_is_can_be_asked_while_much_is_cleared_away(store: CheckpointStore) -> None:
    idle = leave_unfinished(store, "idle", 4 * MIB)
    for number in range(30_000):
        (idle / str(number)).touch()
    rooms = RoomKeeper(store, 4 * MIB)

    def grant() -> None:
        with rooms.working("x") as room:
            room.grant(3 * MIB)

    answered_meanwhile = False
    with ThreadPoolExecutor() as threads:
        granted = threads.submit(grant)
        while not granted.done():
            going = list(store.root.glob(".doomed-*"))
            rooms.usage()
            answered_meanwhile |= any(path.exists() for path in going)
        granted.result()
    assert answered_meanwhile


def test_damaged_checkpoints_make_way_first(store: CheckpointStore) -> None:
    aside = store.quarantine(publish(store))
    idle = leave_unfinished(store, "idle")
    rooms = RoomKeeper(store, disk_bytes(aside) + MIB)
    with rooms.working("x") as room:
        room.grant(1)
    assert (aside.exists(), idle.exists()) == (False, True)
