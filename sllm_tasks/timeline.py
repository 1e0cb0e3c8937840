"""Where the time of a job goes: `SLLM_TIMELINE` names a folder, and every process writes its marks there.

One line per mark: nanoseconds of the machine's monotonic clock (the same for all its processes), name, job. Nothing
happens unless the variable is set; `scripts/bench_dispatch` reads the files.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import TextIO

_FOLDER = os.environ.get("SLLM_TIMELINE", "")


@cache
def _file() -> TextIO:
    # Line buffered: a mark is one write of a process that may be killed at any time.
    return (Path(_FOLDER) / f"{os.getpid()}.marks").open("a", buffering=1, encoding="ascii")


def mark(name: str, job_id: str) -> None:
    """Note that a job has come this far."""
    if _FOLDER:
        mark_at(name, job_id, time.monotonic_ns())


def mark_at(name: str, job_id: str, monotonic_ns: int) -> None:
    """Note a moment that passed before the job had its id."""
    if _FOLDER:
        _file().write(f"{monotonic_ns} {name} {job_id}\n")
