"""Processes that start with their imports behind them: forked from one that has nothing but imports.

A worker imports torch and transformers for four seconds of CPU before it can take work, and again whenever it died.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import select
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import TimeoutExpired

from sllm_tasks.errors import UnavailableError

_PR_SET_PDEATHSIG = 1


class Zygote:
    """Forks processes from one that has imported some modules; it starts with the first, and ends with its owner."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(modules))

    def start(self, command: Sequence[str], environ: Mapping[str, str], log_path: Path) -> ForkedProcess:
        """Start `PYTHON -m MODULE WORDS`, by the module's `main`, its output appended to a file.

        Waits until the zygote has its imports behind it. What the modules read from the environment when they are
        imported is that of the owner.

        Raises:
            UnavailableError: The zygote, or the new process, died on the way.

        """
        _, dash_m, module, *words = command
        if dash_m != "-m":
            raise ValueError(f"command: {' '.join(command)} is none of a module")
        process = self._context.Process(target=_become, args=(module, words, dict(environ), str(log_path)))
        try:
            process.start()
            return ForkedProcess(process)
        except (OSError, EOFError) as error:
            raise UnavailableError(f"the process did not come out of the zygote: {error!r}") from error


class ForkedProcess:
    """A process that is no child of ours; speaks like a `subprocess.Popen`."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process
        self.pid = process.pid or 0
        # It stays the same process when its id has gone to another one, and tells of its end even if the zygote died.
        self._pidfd = os.pidfd_open(self.pid)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the status once it has ended, -1 if nobody knows it any more."""
        return self.returncode if self._has_ended(0) else None

    def wait(self, timeout: float | None = None) -> int:
        """Return the status; raises TimeoutExpired."""
        if not self._has_ended(timeout):
            raise TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return -1 if self.returncode is None else self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _has_ended(self, timeout_s: float | None) -> bool:
        if self.returncode is None and self._is_readable(timeout_s):
            # Written by the zygote, which may be about to.
            self._process.join(1.0)
            self.returncode = -1 if self._process.exitcode is None else self._process.exitcode
            os.close(self._pidfd)
        return self.returncode is not None

    def _is_readable(self, timeout_s: float | None) -> bool:
        # Not `select`: it refuses descriptors from 1,024 on.
        ended = select.poll()
        ended.register(self._pidfd, select.POLLIN)
        return bool(ended.poll(None if timeout_s is None else timeout_s * 1_000))


def die_with_parent() -> None:
    """Have the kernel send SIGTERM to this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _die_with_owner() -> None:
    """End this process when the zygote's owner ends; the zygote itself stays for as long as what it forked.

    Without a goodbye: nobody is left who would enforce the end of one that takes its time.
    """
    owner = multiprocessing.parent_process()
    if owner is not None:
        owner.join()
        os.kill(os.getpid(), signal.SIGKILL)


def _become(module: str, words: list[str], environ: dict[str, str], log_path: str) -> None:
    os.setsid()
    die_with_parent()
    threading.Thread(target=_die_with_owner, name="owner", daemon=True).start()
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    os.close(log)
    os.environ.update(environ)
    sys.argv = [module, *words]
    importlib.import_module(module).main()
