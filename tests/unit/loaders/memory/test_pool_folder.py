"""How a pool comes to be in a folder, and goes."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest

from loaders.errors import PoolBusyError, PoolCorruptError, PoolError, PoolMismatchError, PoolSpaceError
from loaders.memory.pool import Pool
from loaders.memory.pool_folder import remove_pool
from loaders.memory.records import ContentKey

_CHUNK = 4096
_KEY = ContentKey("content")


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Path]:
    mounted = tmp_path / "small"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(mounted)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small tmpfs")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def _fill_one(pool: Pool) -> None:
    lease = pool.lease(_KEY, _CHUNK)
    assert lease is not None
    with lease:
        assert list(lease.claim()) == [0]
        lease.filled(0)


def test_a_pool_of_another_shape_is_refused(folder: Path) -> None:
    with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
        for capacity_bytes, chunk_bytes in ((9 * _CHUNK, _CHUNK), (8 * _CHUNK, 2 * _CHUNK)):
            with pytest.raises(PoolMismatchError, match="the pool there has 8 chunks of 4096 bytes, asked for were"):
                Pool.open(folder, capacity_bytes, chunk_bytes)
        with Pool.open(folder, 9 * _CHUNK - 1, _CHUNK) as same:
            assert same.num_chunks == pool.num_chunks == 8


def test_a_pool_of_another_version_is_refused(folder: Path) -> None:
    Pool.open(folder, 8 * _CHUNK, _CHUNK).close()
    with closing(sqlite3.connect(folder / "directory")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(PoolMismatchError, match="version 99, this code knows 1"):
        Pool.open(folder, 8 * _CHUNK, _CHUNK)


def test_a_pool_that_does_not_fit_is_refused_with_figures_and_leaves_nothing(small_tmpfs: Path) -> None:
    folder = small_tmpfs / "pool"
    with pytest.raises(PoolSpaceError, match=r"a pool of 33554432 bytes needs 41943040 and \d+ are free") as caught:
        Pool.open(folder, 32 << 20, 1 << 20)
    assert caught.value.needed_bytes == 40 << 20
    assert caught.value.free_bytes <= 16 << 20
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) == 0
    Pool.open(folder, 4 << 20, 1 << 20).close()


def test_memory_that_others_took_meanwhile_is_an_error_and_not_the_end_of_the_process(small_tmpfs: Path) -> None:
    with Pool.open(small_tmpfs / "pool", 4 << 20, 1 << 20) as pool:
        with (small_tmpfs / "other").open("wb") as other:
            free = os.statvfs(small_tmpfs).f_bavail * os.statvfs(small_tmpfs).f_frsize
            other.write(bytes(free - (3 << 19)))
        lease = pool.lease(_KEY, 4 << 20)
        assert lease is not None
        with lease:
            assert list(lease.claim()) == [0]
            with pytest.raises(PoolSpaceError, match="something else took the room"):
                lease.claim()
            lease.filled(0)
            with pytest.raises(PoolSpaceError):
                pool.prepare()
            (small_tmpfs / "other").unlink()
            pool.prepare()
            assert [list(lease.claim()) for _ in range(4)] == [[1], [2], [3], []]
        pool.check()


@pytest.mark.parametrize("damage", [b"", b"no database", b"SQLite format 3\0" + bytes(5000)])
def test_a_damaged_directory_is_made_anew_by_whoever_is_alone(folder: Path, damage: bytes) -> None:
    with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
        _fill_one(pool)
    (folder / "directory").write_bytes(damage)
    with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
        assert pool.contents() == ()
        pool.check()


def test_a_directory_that_contradicts_itself_is_made_anew_by_whoever_is_alone(folder: Path) -> None:
    with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
        _fill_one(pool)
    with closing(sqlite3.connect(folder / "directory", isolation_level=None)) as connection:
        connection.execute("UPDATE extents SET start = 100")
    with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
        assert pool.contents() == ()


def test_a_damaged_directory_is_an_error_while_others_use_it(folder: Path) -> None:
    with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
        _fill_one(pool)
        with closing(sqlite3.connect(folder / "directory", isolation_level=None)) as connection:
            connection.execute("UPDATE extents SET start = 100")
        with pytest.raises(PoolCorruptError, match="chunks outside the pool"):
            pool.check()
        (folder / "directory").unlink()
        with pytest.raises(PoolCorruptError, match="others have the pool open, but its directory is gone"):
            Pool.open(folder, 8 * _CHUNK, _CHUNK)


@pytest.mark.parametrize("left", [["memory"], ["memory", "directory"]])
def test_a_pool_whose_making_was_cut_short_is_made_anew(folder: Path, left: list[str]) -> None:
    folder.mkdir()
    (folder / "memory").write_bytes(bytes(100))
    if "directory" in left:
        with closing(sqlite3.connect(folder / "directory", isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
        _fill_one(pool)


def test_a_pool_without_its_memory_is_made_anew(folder: Path) -> None:
    with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
        _fill_one(pool)
    (folder / "memory").unlink()
    with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
        assert pool.contents() == ()


def test_a_pool_is_removed_only_when_nobody_has_it_open(folder: Path) -> None:
    remove_pool(folder)
    with Pool.open(folder, 8 * _CHUNK, _CHUNK), pytest.raises(PoolBusyError, match="has the pool open"):
        remove_pool(folder)
    remove_pool(folder)
    assert not folder.exists()
    with Pool.open(folder, 9 * _CHUNK, _CHUNK) as pool:
        assert pool.num_chunks == 9


def test_pools_are_opened_and_removed_by_many_at_once(folder: Path) -> None:
    def open_and_remove(_: int) -> None:
        for _ in range(25):
            with Pool.open(folder, 8 * _CHUNK, _CHUNK) as pool:
                pool.prepare()
                pool.check()
            with suppress(PoolBusyError):
                remove_pool(folder)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(open_and_remove, range(4)))
    remove_pool(folder)
    assert not folder.exists()


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PoolError, match="file/pool: Not a directory"):
        Pool.open(tmp_path / "file" / "pool", 8 * _CHUNK, _CHUNK)
