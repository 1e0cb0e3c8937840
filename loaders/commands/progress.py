"""A bar on standard error: how far, how fast in GB/s, how long still. Nothing where nobody looks at a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show the speed, as all speeds of loads are shown."""
        speed = task.finished_speed or task.speed
        return Text("- GB/s" if speed is None else f"{speed / 1e9:.2f} GB/s")


class Bar:
    """One bar for each stage of a piece of work. A context manager; threads may share it."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            _Speed(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, int] = {}

    def update(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is; the first call begins it."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._progress.task_ids[self._tasks[stage]], completed=done, total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
