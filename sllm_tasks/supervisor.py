"""`sllm up`: every process of one machine, started in order, kept alive, stopped in order."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from sllm_tasks import accelerators, embedded, logs
from sllm_tasks.bootstrap import ensure_admin_key, first_login_link
from sllm_tasks.children import Child, ChildSpec
from sllm_tasks.config import Settings, ram_bytes
from sllm_tasks.errors import ConflictError, UnavailableError
from sllm_tasks.ledger.schema import upgrade
from sllm_tasks.livestate import LiveState
from sllm_tasks.process_list import ProcessList
from sllm_tasks.secrets import cluster_secret
from sllm_tasks.zygote import Zygote

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_START_TIMEOUT_S = 180.0
#: What a worker may take to stop after its jobs had their grace.
_STOP_S = 15.0
#: Share of the machine's memory that the replicas of all CPU gpus together may use.
_CPU_SHARE = 0.5
#: What a worker imports before it takes work.
_WORKER_MODULES = ("sllm_tasks.worker.app",)
#: Forks processes for node agents; named here and not imported, for it imports torch.
_NURSERY = "sllm_tasks.node_agent.apart.nursery"


def run(settings: Settings) -> int:
    """Run a whole machine until SIGINT or SIGTERM; returns the exit status.

    Raises:
        ConflictError: Another `sllm up` runs on this state folder.

    """
    logs.set_up(settings)
    # Checkpoints are directories; what is forked has read this when it was imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    (settings.home / "run").mkdir(exist_ok=True, mode=0o700)
    (settings.home / "logs").mkdir(exist_ok=True)
    with _only_one(settings.home / "run" / "up.lock"):
        process_list = ProcessList(settings.home)
        process_list.wait_for_orphans(settings.grace_s + _STOP_S)
        return Supervisor(settings, process_list).run()


class Supervisor:
    """Owns the child processes; everything happens in the main thread."""

    def __init__(self, settings: Settings, process_list: ProcessList) -> None:
        port = _free_port(settings.host, settings.port)
        self._settings = settings.model_copy(update={"port": port})
        self._url = self._settings.web_url
        self._process_list = process_list
        self._stopping = threading.Event()
        log_dir = settings.home / "logs"
        self._redis = None if settings.redis_url else Child(self._redis_spec(), log_dir)
        zygote = Zygote(_WORKER_MODULES)
        self._children = [Child(spec, log_dir, zygote) for spec in process_specs(self._settings)]
        self._all = [child for child in [self._redis, *self._children] if child is not None]

    def run(self) -> int:
        """Start everything, keep it alive, stop everything."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        try:
            self._start()
            while not self._stopping.wait(_LOOK_S):
                self._look()
        finally:
            self._stop_children()
        return 0

    def _start(self) -> None:
        if self._redis is not None:
            self._redis.start()
        self._wait_for(lambda: embedded.answers(self._settings.live_url), f"a server at {self._settings.live_url}")
        upgrade(self._settings.ledger_url)
        cluster_secret(self._settings)
        key = ensure_admin_key(self._settings, self._url)
        for child in self._children:
            child.start()
        self._process_list.write(self._pids())
        num_gpus = sum(child.spec.name.startswith("worker") for child in self._children)
        with LiveState(self._settings.live_url) as live:
            self._wait_for(lambda: _num_ready(live, self._url) >= num_gpus, "the web process and all workers")
        if not self._stopping.is_set():
            self._greet(key, num_gpus)

    def _look(self) -> None:
        pids = self._pids()
        for child in self._all:
            child.look()
        if self._pids() != pids:
            self._process_list.write(self._pids())

    def _pids(self) -> dict[str, int | None]:
        return {child.spec.name: child.pid for child in self._all}

    def _greet(self, key: str | None, num_gpus: int) -> None:
        sys.stderr.write(
            f"sllm is up: {self._url}  ({num_gpus} gpus, state in {self._settings.home}, Ctrl-C stops it)\n"
        )
        if key is not None:
            sys.stderr.write(f"first admin key, shown once: {key}\n")
        link = first_login_link(self._settings, self._url)
        if link is not None:
            sys.stderr.write(f"admin UI: {link}  (choose a password; the link works once, for a day)\n")
        else:
            sys.stderr.write(f"admin UI: {self._url}/admin\n")
        sys.stderr.flush()

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self._stopping.is_set() and not condition():
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"{what} did not come up within {_START_TIMEOUT_S:.0f} s")
            self._look_at_started()
            time.sleep(_LOOK_S)

    def _look_at_started(self) -> None:
        for child in self._all:
            if child.was_started:
                child.look()

    def _stop_children(self) -> None:
        """Web first, so that nothing new comes; the broker last, so that everybody can say goodbye."""
        for group in ("web", "router", "worker", "node", "nursery", "control"):
            children = [child for child in self._children if child.spec.name.startswith(group)]
            for child in children:
                child.ask_to_stop()
            for child in children:
                child.wait_stopped()
        if self._redis is not None:
            self._redis.ask_to_stop()
            self._redis.wait_stopped()
        self._process_list.remove()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._stopping.set()

    def _redis_spec(self) -> ChildSpec:
        return ChildSpec(name="redis", command=tuple(embedded.server_command(self._settings)))


def process_specs(settings: Settings) -> list[ChildSpec]:
    """List the processes of this machine, in the order in which they start."""
    command = (sys.executable, "-m", "sllm_tasks.cli.main")
    shared = _shared_environ(settings)

    num_gpus = 0 if settings.device == "cpu" else accelerators.num_usable()
    # CUDA does not survive a fork; whether the imports alone leave it untouched was not tried on a GPU.
    may_fork = not num_gpus

    def spec(name: str, *words: str, **environ: str) -> ChildSpec:
        return ChildSpec(
            name=name,
            command=(*command, *words),
            environ={**shared, **environ},
            grace_s=settings.grace_s + _STOP_S if words[0] == "worker" else 10.0,
            is_forked=words[0] == "worker" and may_fork,
        )

    specs = [spec("control", "control"), spec("router", "router"), spec("web", "web")]
    if num_gpus:
        specs.append(spec(f"node-{settings.node}", "node"))
        specs += [spec(f"worker-{settings.node}.{i}", "worker", SLLM_GPU=str(i)) for i in range(num_gpus)]
    else:
        for name in (f"node{i}" for i in range(settings.nodes)):
            node = {"SLLM_NODE": name, "SLLM_POOL_BYTES": _cpu_pool_bytes(settings)}
            specs.append(spec(f"node-{name}", "node", **node))
            for i in range(settings.gpus_per_node):
                specs.append(spec(f"worker-{name}.{i}", "worker", **node, **_cpu_gpu(settings), SLLM_GPU=str(i)))
    if len(bytes(settings.nursery_socket)) <= embedded.MAX_SOCKET_BYTES:
        nursery = (sys.executable, "-m", _NURSERY, str(settings.nursery_socket))
        specs.append(ChildSpec(name="nursery", command=nursery, is_forked=may_fork))
    return specs


def _cpu_pool_bytes(settings: Settings) -> str:
    """Where nodes share a machine without being told how much memory each may pool, they share what one would have."""
    return str(settings.pool_capacity_bytes // (1 if settings.pool_bytes else settings.nodes))


def _cpu_gpu(settings: Settings) -> dict[str, str]:
    """What each gpu gets of the CPU and the memory that all of them are."""
    num_gpus = settings.nodes * settings.gpus_per_node
    threads = settings.torch_threads or max(1, (os.cpu_count() or 1) // num_gpus)
    memory_bytes = settings.gpu_memory_bytes or int(ram_bytes() * _CPU_SHARE) // num_gpus
    return {"SLLM_GPU_MEMORY_BYTES": str(memory_bytes), "SLLM_TORCH_THREADS": str(threads)}


def _shared_environ(settings: Settings) -> dict[str, str]:
    """Hand the merged settings down, so that a flag of `sllm up` reaches every process."""
    values = settings.model_dump(exclude_none=True, exclude={"secret"})
    environ = {f"SLLM_{name.upper()}": str(value) for name, value in values.items()}
    if settings.secret is not None:
        environ["SLLM_SECRET"] = settings.secret.get_secret_value()
    return environ


def _num_ready(live: LiveState, url: str) -> int:
    """Count the gpus that are up, 0 while the web process does not listen."""
    host, _, port = url.partition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
        return len(live.fleet.gpus())
    except (OSError, UnavailableError):
        return 0


def _free_port(host: str, wanted: int) -> int:
    """Return a port that nobody listens on: the wanted one, or any for 0."""
    # As gunicorn binds it: by how the host is written, and what a server before us has left behind is no obstacle.
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            raise ConflictError(
                f"{host}:{wanted} cannot be listened on: {error.strerror}; choose another --port"
            ) from error
        return int(probe.getsockname()[1])


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            pid = file.read().strip()
            message = f"`sllm up` runs already on {path.parent.parent} (process {pid}); stop it, or set SLLM_HOME"
            raise ConflictError(message) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
