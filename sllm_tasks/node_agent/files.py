"""The files of a checkpoint: their names, and how they are read from a directory that anybody may have made."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from sllm_tasks.errors import ErrorCode, ModelUnusableError

#: What a checkpoint folder may consist of; anything else in a source directory is left there.
_FILES = frozenset(
    {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
)
_WEIGHTS = re.compile(r"^[A-Za-z0-9_.-]{1,200}\.safetensors(\.index\.json)?$")
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_checkpoint_file(name: str) -> bool:
    """Whether a file of that name belongs into a checkpoint."""
    return name in _FILES or bool(_WEIGHTS.match(name))


def checkpoint_files(source: Path) -> list[Path]:
    """Find the files of a checkpoint in a directory, sorted; links are followed, as in the caches of Hugging Face.

    Raises:
        ModelUnusableError: There is no such directory here, or one of the files cannot be read or is no regular file.

    """
    if not source.is_dir():
        raise ModelUnusableError(ErrorCode.CHECKPOINT_MISSING, f"there is no directory {source}")
    try:
        paths = sorted(path for path in source.iterdir() if is_checkpoint_file(path.name))
    except OSError as error:
        raise _unreadable(source, error) from error
    for path in paths:
        open_regular(path).close()
    return paths


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; raises ModelUnusableError for anything else, without waiting for a FIFO's other end."""
    try:
        # Asked before as well: opening a device may do something, opening a socket fails with a cryptic message.
        _require_regular(path, path.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    file = os.fdopen(descriptor, "rb")
    try:
        _require_regular(path, os.fstat(descriptor))
    except ModelUnusableError:
        file.close()
        raise
    return file


def _require_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise ModelUnusableError(ErrorCode.CHECKPOINT_CORRUPT, f"{path} is {kind}, expected a regular file")


def _unreadable(path: Path, error: OSError) -> ModelUnusableError:
    reason = "a link to a file that is not there" if path.is_symlink() and not path.exists() else error.strerror
    return ModelUnusableError(ErrorCode.CHECKPOINT_CORRUPT, f"{path} cannot be read: {reason}")
