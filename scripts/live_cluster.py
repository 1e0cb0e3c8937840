"""A real `sllm up` in a folder of its own, for the demo and for benchmarks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

_START_TIMEOUT_S = 200.0


class LiveCluster:
    """Started on entry, stopped on exit; its state folder goes with it unless it was given one."""

    def __init__(self, environ: Mapping[str, str], *, home: Path | None = None) -> None:
        self._own_home = home is None
        # Short, because a unix socket in it must not have more than 107 bytes.
        self.home = home or Path(tempfile.mkdtemp(prefix="sllm-"))
        self._environ = {**os.environ, "SLLM_PORT": "0", **environ, "SLLM_HOME": str(self.home)}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        log_path = self.home / "up.log"
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sllm_tasks.cli.main", "up"], env=self._environ, stderr=log, stdout=log
            )
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while b"sllm is up" not in log_path.read_bytes():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._stop()
                raise SystemExit(f"sllm up did not come up:\n{log_path.read_text()}")
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if self._own_home and kind is None:
            shutil.rmtree(self.home, ignore_errors=True)

    @property
    def environ(self) -> dict[str, str]:
        """Variables with which the CLI and the client find this cluster."""
        client = self._client()
        return {**self._environ, "SLLM_URL": client["url"], "SLLM_API_KEY": client["api_key"]}

    @property
    def url(self) -> str:
        """Where its web process listens."""
        return self._client()["url"]

    @property
    def api_key(self) -> str:
        """Its first admin key."""
        return self._client()["api_key"]

    def pid(self, name: str) -> int | None:
        """Process id of one of its processes, None while it is down."""
        pids: dict[str, int | None] = json.loads((self.home / "run" / "processes.json").read_text())
        return pids[name]

    def _client(self) -> dict[str, str]:
        return tomllib.loads((self.home / "client.toml").read_text())

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
