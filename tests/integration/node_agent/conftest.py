"""Stores with checkpoints of a few chunks."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from loaders.writer.convert import convert
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.node_agent.apart import nursery as nursery_module
from sllm_tasks.node_agent.store import CheckpointStore
from tests.support.processes import wait_until

MakeCheckpoint = Callable[..., str]


@dataclass
class Watch:
    """Watches over work that runs apart: remembers what it is told, grants what it is asked for up to a limit."""

    limit_bytes: int = 1 << 40
    progress: list[tuple[int, int]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    canceled_at: int | None = None

    def note(self, done_bytes: int, total_bytes: int) -> None:
        self.progress.append((done_bytes, total_bytes))

    def is_canceled(self) -> bool:
        return self.canceled_at is not None and len(self.progress) >= self.canceled_at

    def grant(self, num_bytes: int) -> None:
        self.asked.append(num_bytes)
        if num_bytes > self.limit_bytes:
            raise ModelUnusableError(ErrorCode.DISK_FULL, "no room")


@dataclass(frozen=True)
class Nursery:
    """One that runs."""

    path: Path
    process: subprocess.Popen[bytes]

    def children(self) -> list[int]:
        """The processes that it has forked, and that are not gone."""
        return [
            int(word) for word in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]


@contextmanager
def started_nursery(path: Path) -> Iterator[Nursery]:
    """A nursery that listens in the place of one that died."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with subprocess.Popen([sys.executable, "-m", nursery_module.__name__, str(path)]) as process:
        wait_until(lambda: _listens(path), "the nursery listens", 120)
        try:
            yield Nursery(path, process)
        finally:
            process.kill()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        return connection.connect_ex(str(path)) == 0


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with started_nursery(tmp_path_factory.mktemp("nursery") / "sock") as started:
        yield started


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "store")


def publish(store: CheckpointStore, *, num_chunks: int = 1, seed: int = 0) -> str:
    """Put a checkpoint of so many chunks, the last one small, into a store."""
    generator = torch.Generator().manual_seed(seed)
    num_bytes = (num_chunks - 1) * (16 << 20) + 5000
    weights = torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, generator=generator)
    made = store.finished("made")
    digest = convert({"weights": weights}, made).digest
    store.publish(made, digest)
    return digest
