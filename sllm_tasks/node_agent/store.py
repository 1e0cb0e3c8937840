"""The checkpoints on a node's SSD: one folder per digest in the format of docs/format.md, complete or not there."""

from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path

from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.ids import new_id

_DIGEST = re.compile(r"[0-9a-f]{64}")
#: Beside the checkpoints: what is being written, what turned out to be damaged, what is on its way out.
_WORK = ".work"
_QUARANTINE = ".quarantine-"
_DOOMED = ".doomed-"


def is_digest(text: str) -> bool:
    """Whether a text can be a checkpoint's digest, and so a folder's name."""
    return bool(_DIGEST.fullmatch(text))


def disk_bytes(path: Path) -> int:
    """What a file or folder takes on its disk; 0 for what is gone."""
    try:
        names = [*path.rglob("*"), path]
        return sum(name.lstat().st_blocks * 512 for name in names if os.path.lexists(name))
    except FileNotFoundError:
        # It changed while we looked; whoever asks will do so again.
        return 0


class CheckpointStore:
    """Folders appear by one rename after everything in them is on the disk, and nobody writes to them after that."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # Of published folders, which never change; the lock is for the table.
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self.work.mkdir(parents=True, exist_ok=True)
        for doomed in root.glob(f"{_DOOMED}*"):
            shutil.rmtree(doomed, ignore_errors=True)

    @property
    def root(self) -> Path:
        """The folder of all of it."""
        return self._root

    @property
    def work(self) -> Path:
        """Where checkpoints grow; on the same file system, so that publishing is a rename."""
        return self._root / _WORK

    def digests(self) -> frozenset[str]:
        """List complete checkpoints; raises OSError where the disk does not answer."""
        return frozenset(path.name for path in self._root.iterdir() if is_digest(path.name))

    def path(self, digest: str) -> Path:
        """Return the folder of a checkpoint; raises ModelUnusableError when it is not here."""
        path = self._root / digest
        if not is_digest(digest) or not path.is_dir():
            raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, f"checkpoint {digest} is not on this node")
        return path

    def num_bytes(self, digest: str) -> int:
        """What a complete checkpoint takes on the disk, 0 if it is not here."""
        with self._lock:
            if digest in self._sizes:
                return self._sizes[digest]
            num_bytes = disk_bytes(self._root / digest)
            # What went a moment ago may come again.
            if num_bytes:
                self._sizes[digest] = num_bytes
            return num_bytes

    def publish(self, made: Path, digest: str) -> None:
        """Take in a finished checkpoint under its name; one that is here already stays, and the new one goes."""
        target = self._root / digest
        if target.is_dir():
            self._remove(made)
            return
        # Tensors may be views of the files: nobody is to write to them any more.
        for path in made.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.chmod(0o444)
        made.rename(target)
        _fsync(self._root)

    def delete(self, digest: str) -> None:
        """Delete a checkpoint; nothing happens when it is not here."""
        if is_digest(digest) and (path := self._root / digest).is_dir():
            self._remove(path)
            with self._lock:
                self._sizes.pop(digest, None)

    def quarantine(self, digest: str) -> Path:
        """Put a damaged checkpoint aside, for people to look at until its room is needed."""
        aside = self._root / f"{_QUARANTINE}{new_id('copy')}-{digest[:12]}"
        self.path(digest).rename(aside)
        with self._lock:
            self._sizes.pop(digest, None)
        return aside

    def finished(self, name: str) -> Path:
        """Where what grows in `work` under a name is once it is whole; until then it is beside that."""
        return self.work / name

    def aside(self) -> list[Path]:
        """Everything that takes room without being a checkpoint that is here: damaged ones first, then unfinished."""
        return [*sorted(self._root.glob(f"{_QUARANTINE}*")), *sorted(self.work.iterdir())]

    def work_name(self, aside: Path) -> str | None:
        """The name that something unfinished grows under, None for what does not."""
        # `.<name>.partial`, `.<name>.download` and the like; names have no dots of their own.
        return None if aside.parent != self.work else aside.name.lstrip(".").partition(".")[0]

    def doom(self, aside: Path) -> Path | None:
        """Let one of those be gone, but for its room, which `clear` gives back; None if it is gone already."""
        # Renamed, so that a crash in between leaves no half of it under its name.
        doomed = self._root / f"{_DOOMED}{new_id('delete')}"
        try:
            aside.rename(doomed)
        except FileNotFoundError:
            return None
        return doomed

    def clear(self, doomed: Path) -> None:
        """Give the room of something back; takes a while for what is large."""
        shutil.rmtree(doomed)

    def discard(self, name: str) -> None:
        """Remove what grew under a name."""
        for path in self.aside():
            if self.work_name(path) == name:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        if (doomed := self.doom(path)) is not None:
            self.clear(doomed)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
