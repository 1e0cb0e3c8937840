"""Processes of a cluster that a test starts by hand, and how to find every process of a state folder."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

_STOP_TIMEOUT_S = 60.0


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Look again and again; AssertionError when it does not become true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


#: Each node's: touching more memory than tests need takes the machine's time from them.
_POOL_BYTES = 128 << 20


def own_environ(home: Path, **environ: str) -> dict[str, str]:
    """This process's variables with the settings of a test cluster in place of any others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLLM_")}
    fixed = {
        "SLLM_HOME": str(home),
        "SLLM_POOL_BYTES": str(_POOL_BYTES),
        "SLLM_POOL_HOME": str(_pool_home()),
        # What these clusters look like is not to depend on the GPUs of a machine.
        "SLLM_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return {**inherited, **fixed, **environ}


@cache
def _pool_home() -> Path:
    """A folder in memory for all pools of this run: clusters that are killed leave theirs behind."""
    folder = Path(tempfile.mkdtemp(prefix="sllm-tests-", dir="/dev/shm"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class Processes:
    """`sllm` processes by name; each writes to `<name>.log` in a folder and is a session of its own."""

    def __init__(self, log_dir: Path) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        self._log_dir = log_dir
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, words: tuple[str, ...], environ: Mapping[str, str]) -> int:
        """Start `sllm <words>` and return its process id."""
        with self.log_path(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "sllm_tasks.cli.main", *words],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self._processes[name].pid

    def log_path(self, name: str) -> Path:
        """Where a process writes."""
        return self._log_dir / f"{name}.log"

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one process."""
        self._processes[name].send_signal(number)

    def status(self, name: str) -> int | None:
        """Exit status, None while it runs."""
        return self._processes[name].poll()

    def stop(self, name: str) -> int:
        """Ask one to end and return its exit status."""
        self._processes[name].terminate()
        return self.wait(name)

    def wait(self, name: str) -> int:
        """Wait for the end of one and return its exit status."""
        return self._processes[name].wait(_STOP_TIMEOUT_S)

    def kill(self, *names: str) -> None:
        """End processes and what they have started in their sessions without warning."""
        for name in names:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._processes[name].pid, signal.SIGKILL)
        for name in names:
            self._processes[name].wait(_STOP_TIMEOUT_S)

    def pids(self) -> set[int]:
        """Those that run."""
        return {process.pid for process in self._processes.values() if process.poll() is None}

    def kill_all(self) -> None:
        """End all of them."""
        self.kill(*self._processes)


def processes_of(home: Path) -> dict[int, str]:
    """Command lines, by process id, of everything that was started with this state folder."""
    mark = f"SLLM_HOME={home}\0".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if mark in (entry / "environ").read_bytes() + b"\0":
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command:
                    found[int(entry.name)] = command
        except OSError:
            # It ended while we looked, or is somebody else's.
            continue
    return found
