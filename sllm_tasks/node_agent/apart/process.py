"""The agent's end of the wire: start a process, pass on what it says, end it when told to."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Protocol

from sllm_tasks.errors import ErrorCode, ModelUnusableError, SllmError
from sllm_tasks.node_agent.apart.ward import Ward, forked_from

_PACKAGE = __package__
#: How soon a cancel is noticed.
_LOOK_S = 0.2
#: A process that says nothing for so long hangs: a chunk takes a second at most, a look at a checkpoint some minutes.
_MAX_SILENCE_S = 600.0


class Work(StrEnum):
    """What a process can be started for: a module of this package."""

    IMPORT = "import_checkpoint"
    FETCH = "fetch_checkpoint"
    VERIFY = "verify_checkpoint"
    PREFETCH = "prefetch_checkpoint"
    CALIBRATE = "calibrate"


class WorkCanceledError(SllmError):
    """Whoever asked for the work does not want it any more."""

    code = ErrorCode.CANCELED_BY_USER


class Watcher(Protocol):
    """Whoever watches over a piece of work."""

    def note(self, done_bytes: int, total_bytes: int) -> None:
        """Hear how far it is."""

    def is_canceled(self) -> bool:
        """Whether to stop."""

    def grant(self, num_bytes: int) -> None:
        """Set room on the SSD aside; raises ModelUnusableError where there is none."""


@dataclass(frozen=True, slots=True)
class _Process:
    process: subprocess.Popen[bytes] | Ward
    stdin: IO[bytes]
    stdout: IO[bytes]
    stderr: IO[bytes]

    def tell(self, line: str) -> None:
        """Write a line to it; that it has died is found out by reading."""
        with suppress(BrokenPipeError):
            self.stdin.write(line.encode() + b"\n")

    def lines(self, watcher: Watcher) -> Iterator[dict[str, Any]]:
        """Give every line it writes, until it closes its output; raises WorkCanceledError."""
        buffered, heard_s = b"", time.monotonic()
        # `select` looks at the first 1,024 descriptors only, and every connection of a load from here takes one.
        output = select.poll()
        output.register(self.stdout, select.POLLIN)
        while True:
            if watcher.is_canceled():
                raise WorkCanceledError("stopped: it is not wanted any more")
            if not output.poll(_LOOK_S * 1000):
                if time.monotonic() - heard_s > _MAX_SILENCE_S:
                    message = f"given up: nothing was heard for {_MAX_SILENCE_S:.0f} s"
                    raise ModelUnusableError(ErrorCode.CHECKPOINT_UNSUPPORTED, message)
                continue
            heard_s = time.monotonic()
            data = os.read(self.stdout.fileno(), 1 << 20)
            if not data:
                return
            *whole, buffered = (buffered + data).split(b"\n")
            for line in whole:
                yield json.loads(line)

    def last_words(self) -> str:
        """The last line of what it wrote for people."""
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace").strip().rpartition("\n")[2][:300]


def work_apart(work: Work, request: dict[str, Any], watcher: Watcher, nursery: Path | None = None) -> dict[str, Any]:
    """Have a process of its own do something and return its result.

    The nursery that listens at that path forks the process; where none does, it imports for itself.

    Raises:
        ModelUnusableError: What the process gave as its reason. If it died: CHECKPOINT_CORRUPT of an import, whose
            checkpoint nobody has read before, and INTERNAL of what says nothing about a checkpoint that is stored.
        WorkCanceledError: The watcher said so.

    """
    with tempfile.TemporaryFile() as stderr, _started(work, stderr, nursery) as process:
        process.tell(json.dumps(request))
        for line in process.lines(watcher):
            if "progress" in line:
                watcher.note(*line["progress"])
            elif "needs" in line:
                watcher.grant(line["needs"])
                process.tell("granted")
            elif "error" in line:
                raise ModelUnusableError(ErrorCode(line["error"]["code"]), line["error"]["message"])
            else:
                result: dict[str, Any] = line["result"]
                return result
        status = process.process.wait()
        death = "died" if status is None else f"died with status {status}"
        code = ErrorCode.CHECKPOINT_CORRUPT if work is Work.IMPORT else ErrorCode.INTERNAL
        raise ModelUnusableError(code, f"{work} {death}: {process.last_words()}")


@contextmanager
def _started(work: Work, stderr: IO[bytes], nursery: Path | None) -> Iterator[_Process]:
    process = (_forked(work, stderr, nursery) if nursery else None) or _launched(work, stderr)
    try:
        yield process
    finally:
        # What is to be kept is on the disk.
        process.process.kill()
        process.stdin.close()
        process.stdout.close()
        process.process.wait()


def _forked(work: Work, stderr: IO[bytes], nursery: Path) -> _Process | None:
    theirs_in, stdin = os.pipe()
    stdout, theirs_out = os.pipe()
    ward = forked_from(nursery, work, [theirs_in, theirs_out, stderr.fileno()])
    os.close(theirs_in)
    os.close(theirs_out)
    if ward is None:
        os.close(stdin)
        os.close(stdout)
        return None
    return _Process(ward, os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0), stderr)


def _launched(work: Work, stderr: IO[bytes]) -> _Process:
    popen = subprocess.Popen(
        [sys.executable, "-m", f"{_PACKAGE}.{work}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        bufsize=0,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    if popen.stdin is None or popen.stdout is None:
        raise RuntimeError("a process without pipes")
    return _Process(popen, popen.stdin, popen.stdout, stderr)
