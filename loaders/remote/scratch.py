"""Folders for as long as a checkpoint is open; what a process that was killed has left, the next one removes."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "sllm-remote-"
#: Younger folders may belong to somebody who has not locked them yet.
_MIN_AGE_S: Final = 60.0


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that goes with the block, or with the next such folder of this user if the process dies in it."""
    _remove_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name, _open(Path(name)) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Path(name)


def _remove_left() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        # It may be somebody else's, locked, or gone by now.
        with suppress(OSError), _open(path) as descriptor:
            found = os.fstat(descriptor)
            if found.st_uid == os.geteuid() and time.time() - found.st_mtime > _MIN_AGE_S:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _open(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
