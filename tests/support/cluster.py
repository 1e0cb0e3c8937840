"""A whole machine of real processes, as `sllm up` starts it, for tests that break parts of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2
from redis import Redis
from redis.exceptions import RedisError

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.client import Client
from sllm_tasks.cluster import Gpu
from sllm_tasks.config import Settings, load_settings
from sllm_tasks.errors import UnavailableError
from sllm_tasks.livestate import LiveState
from tests.support.processes import Processes, free_port, own_environ, processes_of, wait_until

MODEL = "tiny"
#: One step of the engine takes at least so long, so that a fault hits jobs that decode.
STEP_MS = 20
#: Replicas are freed soon after a test, so that its end can be compared with its beginning.
KEEP_ALIVE_S = 0.5
_START_TIMEOUT_S = 180.0


class Cluster:
    """Broker, web, router, control and two nodes of one worker each, over one state folder; a context manager."""

    def __init__(self, *, step_ms: int = STEP_MS, **environ: str) -> None:
        # A unix socket's path must be short, which pytest's folders are not.
        self.home = Path(tempfile.mkdtemp(prefix="sllm-c-"))
        self._failpoints = self.home / "failpoints"
        self._environ = own_environ(
            self.home,
            **{
                # The same after a restart, for readers that come back.
                "SLLM_PORT": str(free_port()),
                "SLLM_NODES": "2",
                "SLLM_TORCH_THREADS": "1",
                "SLLM_GRACE_S": "1",
                "SLLM_FAILPOINTS": f"decode.step=sleep:{step_ms};@{self._failpoints}",
                **environ,
            },
        )
        self.by_hand = Processes(self.home / "logs")
        self._opened: list[Client | LiveState | Redis] = []

    def __enter__(self) -> Self:
        self._failpoints.mkdir()
        try:
            self._start()
            self.settings: Settings = load_settings(environ=self._environ)[0]
            connection = self._client_file()
            self.api_key: str = connection["api_key"]
            self._url: str = connection["url"]
            self.client = Client(self._url, self.api_key, max_retries=8)
            self.live = LiveState(self.settings.live_url)
            self.redis = Redis.from_url(self.settings.live_url)
            self._opened += [self.client, self.live, self.redis]
            self.deploy(MODEL)
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tear_down()

    def lose_power(self) -> None:
        """End every process at once, the supervisor first, and start all of them again."""
        self.by_hand.kill("up")
        self._kill_the_rest()
        self._start()

    def lose_supervisor(self) -> set[int]:
        """End the supervisor alone and start another one at once; returns the processes that the first left behind."""
        orphans = set(processes_of(self.home))
        self.by_hand.signal("up", signal.SIGKILL)
        self.by_hand.wait("up")
        self._start()
        return orphans

    def stop(self) -> tuple[int, dict[int, str]]:
        """Stop it as an operator does: the exit status, and the processes that were left behind."""
        status = self.by_hand.stop("up")
        return status, processes_of(self.home)

    def pids(self) -> dict[str, int]:
        """Processes that run now, by their names in `sllm up`."""
        found = json.loads((self.home / "run" / "processes.json").read_text())
        return {name: pid for name, pid in found.items() if pid is not None and Path(f"/proc/{pid}").exists()}

    def exit_reasons(self, job_id: str) -> list[str | None]:
        """Why each attempt of a job ended, the first at the beginning; None for one that has not."""
        answer = httpx2.get(
            f"{self._url}/api/v1/jobs/{job_id}/attempts", headers={"Authorization": f"Bearer {self.api_key}"}
        )
        return [attempt["exit_reason"] for attempt in answer.raise_for_status().json()["data"]]

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one process."""
        os.kill(self.pids()[name], number)

    def kill(self, name: str) -> int:
        """End one process without warning and return its id, for `wait_restarted`."""
        pid = self.pids()[name]
        # A session of its own: the web process has workers.
        os.killpg(pid, signal.SIGKILL)
        return pid

    def wait_restarted(self, name: str, old_pid: int) -> None:
        """Wait until the supervisor has started a process again."""
        wait_until(lambda: self.pids().get(name, old_pid) != old_pid, f"{name} is started again")

    @contextmanager
    def frozen_supervisor(self) -> Iterator[None]:
        """Nothing is started again inside the block."""
        self.by_hand.signal("up", signal.SIGSTOP)
        try:
            yield
        finally:
            self.by_hand.signal("up", signal.SIGCONT)

    def start_by_hand(self, name: str, *words: str, **environ: str) -> int:
        """Start another process of this cluster, which nobody starts again; returns its id."""
        return self.by_hand.start(name, words, {**self._environ, **environ})

    def gpus(self) -> dict[str, Gpu]:
        """Gpus by name; empty while the live state is away."""
        try:
            return {str(gpu.id): gpu for gpu in self.live.fleet.gpus()}
        except UnavailableError:
            return {}

    def wait_for_gpus(self, num_gpus: int = 2) -> None:
        """Wait until so many gpus are up."""
        wait_until(lambda: len(self.gpus()) >= num_gpus, f"{num_gpus} gpus are up", 120)

    def wait_for_broker(self) -> None:
        """Wait until the broker answers."""
        wait_until(self._broker_answers, "the broker answers")

    def deploy(self, name: str, *, seed: int = 0, keep_alive_s: float = KEEP_ALIVE_S, num_gpus: int = 1) -> None:
        """Deploy a tiny model, and wait until every node has its checkpoint. A replica takes 1.3 MB in all."""
        source = make_tiny(self.home / "source" / name, seed=seed)
        settings = {"keep_alive_s": keep_alive_s, "max_jobs": 8, "context": 256, "num_gpus": num_gpus}
        self.client.wait_for(self.client.deploy(name, str(source), **settings), timeout=60)
        self.wait_for_copies(name)

    def arm(self, point: str, *lines: str) -> None:
        """Arm a failpoint in all processes; each line acts once, in the first process that comes by."""
        path = self._failpoints / point
        temporary = path.with_suffix(".new")
        temporary.write_text("".join(f"{line}\n" for line in lines))
        temporary.replace(path)

    def has_fired(self, point: str) -> bool:
        """Whether every line of a point has acted."""
        return not (self._failpoints / point).read_text()

    def disarm_all(self) -> None:
        """Forget the failpoints that have not acted."""
        for path in self._failpoints.iterdir():
            path.unlink()

    def counter(self, name: str) -> int:
        """A counter of the live state."""
        return self.live.counters().get(name, 0)

    def log(self, name: str) -> str:
        """What a process has written."""
        return self.by_hand.log_path(name).read_text(errors="replace")

    def _start(self) -> None:
        before = self.by_hand.log_path("up").stat().st_size if self.by_hand.log_path("up").exists() else 0
        self.by_hand.start("up", ("up",), self._environ)

        def is_up() -> bool:
            log = self.log("up")[before:]
            assert self.by_hand.status("up") is None, log
            return "sllm is up" in log

        wait_until(is_up, "the cluster is up", _START_TIMEOUT_S)

    def _kill_the_rest(self) -> None:
        for pid in processes_of(self.home):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not processes_of(self.home), "all processes are gone")

    def _broker_answers(self) -> bool:
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def _client_file(self) -> dict[str, Any]:

        return tomllib.loads((self.home / "client.toml").read_text())

    def wait_for_copies(self, name: str) -> None:
        """Wait until every node lives and has the checkpoint of a model."""
        (digest,) = [model["checkpoint"] for model in self.client.models() if model["id"] == name]

        def num_copies() -> int:
            return sum(digest in node.checkpoints for node in self.live.fleet.nodes(self.live.now_ms()))

        wait_until(lambda: num_copies() == self.settings.nodes, f"every node has the checkpoint of {name}")

    def _tear_down(self) -> None:
        self.by_hand.kill_all()
        for opened in reversed(self._opened):
            opened.close()
        self._kill_the_rest()
        shutil.rmtree(self.home)
