"""Child processes of the supervisor: start, restart what dies with back-off, stop in order."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sllm_tasks.errors import UnavailableError
from sllm_tasks.zygote import ForkedProcess, Zygote, die_with_parent

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.2
_MAX_PAUSE_S = 5.0
#: A process that lived this long starts again without a pause.
_HEALTHY_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """A process to keep alive."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    #: How long it may take to stop before it is killed.
    grace_s: float = 10.0
    #: Whether the zygote forks it, which has imported what it needs.
    is_forked: bool = False


class Child:
    """One child process; its output goes to a file."""

    def __init__(self, spec: ChildSpec, log_dir: Path, zygote: Zygote | None = None) -> None:
        self.spec = spec
        self._zygote = zygote
        self.num_restarts = 0
        self._log_path = log_dir / f"{spec.name}.log"
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self._started_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._start_at_s = 0.0

    @property
    def pid(self) -> int | None:
        """Process id, None while it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def was_started(self) -> bool:
        """Whether it runs, or did until it died."""
        return self._started_s > 0

    def start(self) -> None:
        """Start the process. Must be called from the main thread: the kernel ties the child's life to it."""
        self._process = self._launched()
        self._started_s = time.monotonic()

    def _launched(self) -> subprocess.Popen[bytes] | ForkedProcess:
        if self.spec.is_forked and self._zygote is not None:
            try:
                return self._zygote.start(self.spec.command, self.spec.environ, self._log_path)
            except UnavailableError as error:
                logger.warning("%s imports for itself: %s", self.spec.name, error)
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                self.spec.command,
                env={**os.environ, **self.spec.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one prctl, and this process has one thread
            )

    def look(self) -> None:
        """Start the process again if it has died and its pause is over."""
        if self.pid is not None:
            return
        now_s = time.monotonic()
        if self._process is not None:
            lived_s = now_s - self._started_s
            self._pause_s = _FIRST_PAUSE_S if lived_s > _HEALTHY_S else min(self._pause_s * 2, _MAX_PAUSE_S)
            logger.warning(
                "%s ended with status %s; starts again in %.1f s (log: %s)",
                self.spec.name,
                self._process.returncode,
                self._pause_s,
                self._log_path,
            )
            self._process = None
            self._start_at_s = now_s + self._pause_s
        elif now_s >= self._start_at_s:
            self.num_restarts += 1
            self.start()

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def wait_stopped(self) -> None:
        """Wait for the end, and enforce it after the grace period."""
        if self._process is None:
            return
        try:
            self._process.wait(self.spec.grace_s)
        except subprocess.TimeoutExpired:
            logger.warning("%s did not stop within %.0f s and is killed", self.spec.name, self.spec.grace_s)
            self._process.kill()
            self._process.wait()
