"""Stores with checkpoints of a few chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from loaders.writer.convert import convert
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.node_agent.store import CheckpointStore

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
