"""The web process as it really runs: gunicorn in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

import httpx2

from sllm_tasks.config import Settings

_START_TIMEOUT_S = 30.0


class WebServer:
    """A context manager; `kill` and `start` in between play a crash and a restart."""

    def __init__(self, settings: Settings) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = settings.model_copy(update={"port": port}).web_url
        # A certificate of tests signs itself.
        self.trust: ssl.SSLContext | bool = True
        if settings.tls_certificate is not None:
            self.trust = ssl.create_default_context(cafile=settings.tls_certificate)
        self._environ = {
            **os.environ,
            "SLLM_HOME": str(settings.home),
            "SLLM_REDIS_URL": settings.live_url,
            "SLLM_PORT": str(port),
            "SLLM_WEB_THREADS": str(settings.web_threads),
            "SLLM_MAX_BODY_BYTES": str(settings.max_body_bytes),
        }
        for name in ("tls_certificate", "tls_key"):
            if getattr(settings, name) is not None:
                self._environ[f"SLLM_{name.upper()}"] = str(getattr(settings, name))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start the process and wait until it answers."""
        command = "from sllm_tasks.config import load_settings; from webapp.server import run; run(load_settings()[0])"
        self._process = subprocess.Popen([sys.executable, "-c", command], env=self._environ, start_new_session=True)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            assert time.monotonic() < deadline_s, "the web process did not come up"
            time.sleep(0.05)

    def stop(self) -> int:
        """Ask the process to stop and return its exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(timeout=20)

    def kill_arbiter(self) -> None:
        """End the process without warning, and leave its worker."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End the process and its worker without warning."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=2, verify=self.trust).status_code == 200
        except httpx2.TransportError:
            return False
