"""The folder of a pool: made by whichever process comes first, joined by the others.

lock          held while a process opens or removes the pool
processes/    one file per process that has the pool open
preparing     held while a process makes the pool's pages
directory     the database (and its -wal and -shm)
memory        the chunks, unless they are on a hugetlbfs
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loaders.errors import PoolBusyError, PoolCorruptError, PoolError, PoolMismatchError
from loaders.memory.database import Database
from loaders.memory.invariants import check_invariants
from loaders.memory.pool_memory import check_memory, create_memory, remove_memory
from loaders.memory.processes import ProcessFile, living
from loaders.memory.records import PoolShape
from loaders.memory.schema import create_tables, read_shape
from loaders.memory.sweeping import sweep

_log = logging.getLogger(__name__)

_LOCK = "lock"
PREPARING = "preparing"
_PROCESSES = "processes"
_DIRECTORY = "directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedPool:
    """A pool that this process has joined; the caller closes both parts, the database first."""

    process: ProcessFile
    database: Database
    shape: PoolShape


def join_pool(folder: Path, capacity_bytes: int, chunk_bytes: int) -> JoinedPool:
    """Join the pool of a folder, or make it.

    A damaged directory, and one whose making was never finished, is made anew when no other process has the pool open.

    Raises:
        PoolMismatchError: the pool that is there has another capacity, chunk size or version.
        PoolCorruptError: the directory is damaged, and others have the pool open.
        PoolSpaceError: there is no room for a new pool; nothing is left behind.
        PoolError: the folder cannot be used.

    """
    with _locked(folder):
        alone = not any(living(folder / _PROCESSES))
        try:
            process = ProcessFile(folder / _PROCESSES)
        except OSError as error:
            raise PoolError(f"{folder}: {error.strerror}") from error
        try:
            database, shape = _open(folder, capacity_bytes, chunk_bytes, process, alone=alone)
        except PoolError:
            process.close()
            raise
        process.forget_dead()
        return JoinedPool(process=process, database=database, shape=shape)


def remove_pool(folder: Path) -> None:
    """Give a pool's memory back to the machine, if there is one, and delete its folder.

    Raises PoolBusyError while a process has it open.
    """
    if not folder.is_dir():
        return
    with _locked(folder):
        if any(living(folder / _PROCESSES)):
            raise PoolBusyError(f"{folder}: a process has the pool open")
        _wipe(folder)
        shutil.rmtree(folder / _PROCESSES, ignore_errors=True)
        (folder / PREPARING).unlink(missing_ok=True)
        # The lock last: whoever waits for it finds that it is gone, and makes another one.
        (folder / _LOCK).unlink()
        with suppress(OSError):  # something else is in there
            folder.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        fd = _lock(folder)
        while fd is None:
            fd = _lock(folder)
    except OSError as error:
        raise PoolError(f"{folder}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(fd)


def _lock(folder: Path) -> int | None:
    """Take the folder's lock; None when the folder was removed meanwhile, and the lock with it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / _LOCK
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:
        return None
    fcntl.flock(fd, fcntl.LOCK_EX)
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    os.close(fd)
    return None


def _open(
    folder: Path, capacity_bytes: int, chunk_bytes: int, process: ProcessFile, *, alone: bool
) -> tuple[Database, PoolShape]:
    joined = None
    try:
        joined = _reopen(folder, process, alone=alone)
    except PoolCorruptError as error:
        if not alone:
            raise
        _log.warning("pool %s: made anew, its directory was damaged: %s", folder, error)
    if joined is None:
        if not alone:
            raise PoolCorruptError(f"{folder}: others have the pool open, but its directory is gone")
        return _make(folder, capacity_bytes, chunk_bytes)
    database, shape = joined
    asked = (capacity_bytes // chunk_bytes, chunk_bytes)
    if asked != (shape.num_chunks, shape.chunk_bytes):
        database.close()
        raise PoolMismatchError(
            f"{folder}: the pool there has {shape.num_chunks} chunks of {shape.chunk_bytes} bytes, asked for were "
            f"{asked[0]} of {asked[1]}; remove it when no process uses it, or ask for the same"
        )
    return joined


def _reopen(folder: Path, process: ProcessFile, *, alone: bool) -> tuple[Database, PoolShape] | None:
    """Open a finished directory, None if there is none; whoever comes alone looks at all of it first."""
    if not (folder / _DIRECTORY).exists():
        return None
    database = Database(folder / _DIRECTORY)
    try:
        with database.transaction() as connection:
            shape = read_shape(connection)
            if shape is not None and alone:
                sweep(connection, process)
                check_invariants(connection, shape)
                check_memory(shape)
        if shape is not None and alone:
            database.reserve_room()
    except PoolError:
        database.close()
        raise
    if shape is None:
        database.close()
        return None
    return database, shape


def _make(folder: Path, capacity_bytes: int, chunk_bytes: int) -> tuple[Database, PoolShape]:
    """Make memory first and directory last, in one transaction: a pool is there when it is finished, or not at all."""
    _wipe(folder)
    try:
        shape = create_memory(folder, capacity_bytes, chunk_bytes)
        database = Database(folder / _DIRECTORY)
        try:
            with database.transaction() as connection:
                create_tables(connection, shape)
            database.reserve_room()
        except PoolError:
            database.close()
            raise
    except PoolError:
        _wipe(folder)
        raise
    return database, shape


def _wipe(folder: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        (folder / f"{_DIRECTORY}{suffix}").unlink(missing_ok=True)
    remove_memory(folder)
