"""The end of the wire in the process that works: one JSON request comes in, JSON lines go out, the last one a result.

Lines to the agent: `{"progress": [done, total]}`, `{"needs": bytes}` (answered by a line `granted`),
`{"result": {...}}` or `{"error": {"code", "message"}}`. The agent keeps the pipe open for as long as it lives.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from loaders import errors
from sllm_tasks.errors import ErrorCode, SllmError

#: Progress is shown once a second.
_PROGRESS_S = 0.25

_CODES: tuple[tuple[type[errors.LoaderError], ErrorCode], ...] = (
    (errors.CheckpointUnsupportedError, ErrorCode.CHECKPOINT_UNSUPPORTED),
    (errors.TokenizerMissingError, ErrorCode.TOKENIZER_MISSING),
    (errors.DiskFullError, ErrorCode.DISK_FULL),
    (errors.PoolSpaceError, ErrorCode.OUT_OF_MEMORY),
    # A disk or a pool that fails says nothing about the checkpoint.
    (errors.StorageError, ErrorCode.INTERNAL),
    (errors.PoolError, ErrorCode.INTERNAL),
    # Another time, or with other credentials, it may let us have the checkpoint.
    (errors.RemoteError, ErrorCode.UNAVAILABLE),
    # Missing files too: the directory is there, so no other node has to be asked.
    (errors.LoaderError, ErrorCode.CHECKPOINT_CORRUPT),
)


class Agent(Protocol):
    """What work needs of its agent."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Tell how far it is."""

    def ask_room(self, num_bytes: int) -> None:
        """Wait until the agent has set room on the SSD aside; it ends this process where there is none."""


class Link:
    """What a working process says to its agent. Threads may share it."""

    def __init__(self) -> None:
        # Whatever libraries print must not get between the lines.
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._told_s = 0.0

    def request(self) -> dict[str, Any]:
        """Read what is to be done; from then on this process ends when its agent does."""
        request: dict[str, Any] = json.loads(sys.stdin.readline())
        threading.Thread(target=self._listen, name="link", daemon=True).start()
        return request

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Tell it now and then, and at the end."""
        now_s = time.monotonic()
        if done_bytes == total_bytes or now_s - self._told_s >= _PROGRESS_S:
            self._told_s = now_s
            self.send({"progress": [done_bytes, total_bytes]})

    def ask_room(self, num_bytes: int) -> None:
        """Wait for the agent's answer."""
        self.send({"needs": num_bytes})
        self._answers.get()

    def send(self, line: dict[str, Any]) -> None:
        """Write one line."""
        with self._lock:
            self._out.write(json.dumps(line) + "\n")
            self._out.flush()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._answers.put(line)
        os._exit(1)


def serve(work: Callable[[dict[str, Any], Agent], dict[str, Any]]) -> int:
    """Do what standard input asks for, and say what came of it; the edge of a process."""
    link = Link()
    try:
        link.send({"result": work(link.request(), link)})
    except SllmError as error:
        link.send({"error": {"code": error.code, "message": str(error)}})
    except errors.LoaderError as error:
        link.send({"error": {"code": code_of(error), "message": str(error)}})
    return 0


def code_of(error: errors.LoaderError) -> ErrorCode:
    """Say what users see of an error."""
    return next(code for kind, code in _CODES if isinstance(error, kind))
