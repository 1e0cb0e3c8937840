"""Processes that share a folder know which of them are alive.

Each holds a lock on a file of its own for its life. The kernel lets go of the lock when the process has ended, however
it ended, and only after its last system call on the memory: whoever can lock the file knows that its owner is dead.
The file's name is never used again, so a process id that is used again means nothing here.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NewType

#: Names one life of one process in a folder.
ProcessToken = NewType("ProcessToken", str)


class ProcessFile:
    """The process we are in, as the others in the folder see it."""

    def __init__(self, folder: Path) -> None:
        """Appear in a folder, which is made if need be. Raises OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.token, self._fd = _appear(folder)
        self._pid = os.getpid()
        _here.add(self)

    @property
    def is_owner(self) -> bool:
        """Whether we are the process that appeared, rather than one that was forked from it."""
        return os.getpid() == self._pid

    @property
    def is_closed(self) -> bool:
        """Whether we have disappeared."""
        return self._fd < 0

    def is_alive(self, token: ProcessToken) -> bool:
        """Whether a process lives."""
        return token == self.token or _is_locked(self.folder / token)

    def forget_dead(self) -> None:
        """Delete the files of the dead; call it when nothing that they held is left."""
        for path in self.folder.iterdir():
            if path.name != self.token and not _is_locked(path):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Disappear. In a forked process it only forgets."""
        _here.discard(self)
        if self._fd < 0:
            return
        if self.is_owner:
            (self.folder / self.token).unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def close_inherited(self) -> None:
        """Let go of a descriptor that came by fork: it shares the lock, and would keep a dead parent alive."""
        os.close(self._fd)
        self._fd = -1


def living(folder: Path) -> Iterator[ProcessToken]:
    """All processes that live in a folder, which need not exist."""
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            if _is_locked(path):
                yield ProcessToken(path.name)


def _appear(folder: Path) -> tuple[ProcessToken, int]:
    while True:
        token = ProcessToken(f"{os.getpid()}-{secrets.token_hex(8)}")
        path = folder / token
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody who looked before we had the lock may have taken us for dead and deleted the file.
            if os.fstat(fd).st_nlink > 0:
                return token, fd
        path.unlink(missing_ok=True)
        os.close(fd)


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


# All of this process, for the fork handler alone.
_here: weakref.WeakSet[ProcessFile] = weakref.WeakSet()


def _close_inherited() -> None:
    for process in list(_here):
        process.close_inherited()
    _here.clear()


os.register_at_fork(after_in_child=_close_inherited)
