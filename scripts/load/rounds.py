"""Rounds of loads in turning order, each in a fresh process and from a state of memory that is brought about first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from loaders.memory.pool import Pool
from scripts.load.contestants import POOLED, READS, Files

_TIMEOUT_S = 600
#: Memory that is touched and freed before the clock, in units of the files: for the page cache, for a copy, and as much
#: again. More may drive the loaders' own code out of the page cache, and a host takes back what stays free.
_BACKED_TIMES = 3


class State(StrEnum):
    """What is in memory when the clock starts."""

    #: Nothing of the files; the memory of the process is as the machine gives it.
    FOUND = "cold, memory as found"
    #: Nothing of the files; the process has touched and freed more memory than it needs.
    BACKED = "cold, memory host-backed"
    #: The same loader has loaded the same files just before, in another process; memory as found.
    WARM = "warm, loaded before"
    #: The files were read from one end to the other just before, as by cp, into the page cache and, for those who have
    #: it, into the node's pool; memory as found. Whoever maps the files next is ten times as fast as behind a load that
    #: mapped them (0.019 and 0.21 s of safetensors for 2.6 GB).
    CACHED = "warm, files read before"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One load."""

    returned_s: float
    #: Until every page of every tensor had been read.
    resident_s: float
    num_bytes: int
    checksum: int


def bring_about(state: State, contestant: str, files: Files, pool: Pool | None, ceiling: Ceiling | None = None) -> None:
    """Empty the page cache and the pool, and load once where that is to be before the clock; raises RuntimeError.

    With a ceiling, cold files are read by it first: the host of a virtual machine may keep what was read last, and who
    comes behind somebody with the same file would have it faster.
    """
    is_cold = state in {State.FOUND, State.BACKED}
    for path in READS[contestant](files):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if ceiling is not None and is_cold:
            ceiling.read_s(path)
    if pool is not None:
        for content in pool.contents():
            pool.free(content.key)
    if state is State.WARM:
        load_once(contestant, files, State.FOUND)


def load_once(contestant: str, files: Files, state: State) -> Sample:
    """Run one load in a process of its own; raises RuntimeError with its last words when it fails."""
    num_bytes = sum(path.stat().st_size for path in READS[contestant](files))
    request = {
        "contestant": contestant,
        "files": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(files).items()},
        "backed_bytes": _BACKED_TIMES * num_bytes if state is State.BACKED else 0,
        "cached": [str(path) for path in READS[contestant](files)] if state is State.CACHED else [],
        "pooled": str(POOLED[contestant](files)) if state is State.CACHED and contestant in POOLED else "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "scripts.load.one_load", json.dumps(request)],
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise RuntimeError(f"{contestant}: {' / '.join(last)}")
    return Sample(**json.loads(done.stdout.decode().strip().splitlines()[-1]))


class Ceiling:
    """The bare read loop in C; compiled when it is made, None where there is no compiler."""

    def __init__(self, folder: Path) -> None:
        """Compile; raises OSError or CalledProcessError."""
        self._program = str(folder / "ceiling")
        source = Path(__file__).with_name("ceiling.c")
        subprocess.run(["cc", "-O2", "-pthread", "-o", self._program, source], check=True, capture_output=True)

    def read_s(self, path: Path, num_threads: int = 4, chunk_bytes: int = 32 << 20) -> float:
        """Seconds that one read of a file takes."""
        command = [self._program, str(path), str(num_threads), str(chunk_bytes)]
        return float(subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S).stdout)
