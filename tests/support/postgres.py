"""A private PostgreSQL server for tests: its own cluster on a unix socket, gone with the test run."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import psycopg

_START_TIMEOUT_S = 60.0
_USER = "sllm"


def find_binaries() -> Path | None:
    """Return the newest installed PostgreSQL's folder of programs."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class PostgresServer:
    """A server with durability off; a context manager."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        # Not under pytest's folders: those are closed to the user that a root's server has to run as.
        self._folder = Path(tempfile.mkdtemp(prefix="sllm-pg-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        data = self._folder / "data"
        initdb: list[str | Path] = [
            self._binaries / "initdb",
            "-D",
            data,
            "-U",
            _USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "-N",
        ]
        subprocess.run(self._unprivileged(initdb), check=True, stdout=subprocess.DEVNULL, cwd=self._folder)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "max_connections": "100",
            "shared_buffers": "32MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._unprivileged([self._binaries / "postgres", "-D", self._folder / "data", *options]),
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop the server, closing its connections; data stay."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
            self._process.wait(timeout=_START_TIMEOUT_S)
            self._process = None

    def url(self, name: str) -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://{_USER}@/{name}?host={self._folder}"

    def execute(self, statement: str) -> None:
        """Run a statement as superuser, outside any transaction."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    @contextmanager
    def database(self, name: str, template: str = "template1") -> Iterator[str]:
        """Lend a database and yield its URL."""
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _unprivileged(self, arguments: list[str | Path]) -> list[str | Path]:
        # PostgreSQL refuses to run as root; the death signal stops it when the test run is killed.
        identity = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.getuid() == 0 else []
        return ["setpriv", *identity, "--pdeathsig=INT", *arguments]

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                if time.monotonic() > deadline or (self._process and self._process.poll() is not None):
                    raise RuntimeError((self._folder / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return
