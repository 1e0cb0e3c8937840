"""Remote checkpoints for tests: how one gets onto a server, and whether a download is the same."""

from __future__ import annotations

import shutil
from pathlib import Path

from loaders.remote.retries import RetryPolicy
from tests.support.file_server import FileServer

#: No test waits for a server that is away longer than it must.
QUICK = RetryPolicy(max_tries=4, first_delay_s=0.01, max_delay_s=0.02)


def serve(server: FileServer, checkpoint: Path) -> None:
    """Put a copy of a checkpoint into the server's folder."""
    shutil.copytree(checkpoint, server.root, dirs_exist_ok=True)


def same_files(one: Path, other: Path) -> bool:
    """Whether all files below one directory are in another one, and nothing else, but for what no checkpoint has."""
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()} - {Path("README.md")}
    there = {path.relative_to(other) for path in other.rglob("*") if path.is_file()}
    return names == there and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)
