"""Two servers that share a broker, a database and a secret, and no file: jobs run on both, and one of them may die."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.bootstrap import ensure_admin_key
from sllm_tasks.client import Client, ServerUnavailableError
from sllm_tasks.config import load_settings
from sllm_tasks.embedded import find_server
from sllm_tasks.ledger.schema import upgrade
from tests.support.load import Load, answers, questions
from tests.support.postgres import PostgresServer
from tests.support.processes import Processes, free_port, own_environ, wait_until

pytestmark = pytest.mark.slow

_PASSWORD = "a password of the broker"
_PARTS = ("web", "router", "control", "node", "worker")


@dataclass(frozen=True, slots=True)
class _Server:
    """One machine: a state folder of its own and every kind of process."""

    name: str
    environ: dict[str, str]
    processes: Processes

    @property
    def home(self) -> Path:
        return Path(self.environ["SLLM_HOME"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.environ['SLLM_PORT']}"

    @property
    def checkpoints(self) -> list[str]:
        return [path.name for path in (self.home / "nodes" / self.name / "checkpoints").glob("[0-9a-f]*")]

    def start(self) -> None:
        for part in _PARTS:
            self.processes.start(part, (part,), self.environ)

    def kill_everything(self) -> None:
        self.processes.kill_all()


@pytest.fixture
def broker_url() -> Iterator[str]:
    """A broker on a TCP port that asks for a password."""
    port, folder = free_port(), tempfile.mkdtemp(prefix="sllm-broker-")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", _PASSWORD, "--save", "", "--dir", folder]
    process = subprocess.Popen([str(find_server()), *options], stdout=subprocess.DEVNULL)
    url = f"redis://:{_PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/0"

    def answers_now() -> bool:
        with Redis.from_url(url) as client, contextlib.suppress(RedisError):
            return bool(client.ping())
        return False

    wait_until(answers_now, "the broker answers")
    yield url
    process.kill()
    process.wait()
    shutil.rmtree(folder)


@pytest.fixture
def servers(postgres_server: PostgresServer, broker_url: str, tmp_path: Path) -> Iterator[tuple[_Server, _Server]]:
    """Two machines, started."""
    with postgres_server.database("ledger_of_two_servers") as ledger_url:
        upgrade(ledger_url)
        made = []
        for name in ("alpha", "beta"):
            environ = own_environ(
                tmp_path / name,
                SLLM_NODE=name,
                SLLM_PORT=str(free_port()),
                SLLM_REDIS_URL=broker_url,
                SLLM_DATABASE_URL=ledger_url,
                SLLM_SECRET="a secret of both servers",
                SLLM_TORCH_THREADS="1",
                SLLM_GPU_MEMORY_BYTES=str(2**30),
                SLLM_FAILPOINTS="decode.step=sleep:30",
            )
            made.append(_Server(name, environ, Processes(tmp_path / name / "logs")))
        try:
            for server in made:
                server.start()
            yield made[0], made[1]
        finally:
            for server in made:
                server.kill_everything()


def _client(server: _Server, api_key: str) -> Client:
    client = Client(server.url, api_key, max_retries=8)

    def both_are_up() -> bool:
        with contextlib.suppress(ServerUnavailableError):
            return len([node for node in client.nodes() if node["gpus"]]) == 2
        return False

    wait_until(both_are_up, "both servers are up", 180)
    return client


def test_jobs_run_on_two_servers_and_survive_the_death_of_either(
    servers: tuple[_Server, _Server], tmp_path: Path
) -> None:
    first, second = servers
    api_key = ensure_admin_key(load_settings(environ=first.environ)[0], first.url)
    assert api_key is not None
    with _client(second, api_key) as client:
        source = make_tiny(tmp_path / "known_to_alpha")
        deployed = client.deploy("tiny", str(source), node="alpha", max_jobs=4, context=256, max_replicas=2)
        client.wait_for(deployed, timeout=60)
        shutil.rmtree(source)
        # The reconciler wants a second copy: it comes from the first server's agent.
        wait_until(lambda: second.checkpoints, "the second server has fetched the checkpoint")
        assert second.checkpoints == first.checkpoints

        asked = questions(16)
        expected = answers(Load(client, api_key), asked[:8])
        load = Load(client, api_key)
        load.submit(asked[:8], num_watched=2)
        wait_until(lambda: _nodes_of(load) == {"alpha", "beta"}, "jobs run on both servers")
        load.wait_for_tokens(5, num_jobs=6)
        # With its leader, perhaps, of the routers, and one of two controls.
        first.kill_everything()
        more = Load(client, api_key)
        more.submit(asked[8:])
        assert not load.wait_ended(90)
        assert not more.wait_ended(90)
        records = load.records()
        assert {question: records[job_id].text for job_id, (_, question) in load.jobs.items()} == expected
        assert {record.status for record in more.records().values()} == {"succeeded"}
        assert _nodes_of(more) == {"beta"}


def _nodes_of(load: Load) -> set[str]:
    assignments = [record.raw.get("assignment") for record in load.records().values()]
    return {assignment["node"] for assignment in assignments if assignment}
