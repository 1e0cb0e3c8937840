"""A folder that one process at a time works in."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from loaders.errors import ConversionBusyError
from loaders.writer.disk import translated


def lock_folder(path: Path, destination: Path) -> int:
    """Lock a folder and return the descriptor that holds the lock, until it is closed or its process dies.

    Raises ConversionBusyError, naming the destination that the folder is for.
    """
    with translated(path):
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise ConversionBusyError(f"{destination}: another process is writing it") from error
    return lock
