"""Two servers that share a broker, a database and a secret, and no file: jobs run on both, and one of them may die.

They reach the broker over TLS, and each process as a user that may do no more than its work.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis import Redis

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.bootstrap import ensure_admin_key
from sllm_tasks.cli.main import sllm
from sllm_tasks.client import Client, ServerUnavailableError, calls
from sllm_tasks.config import load_settings
from sllm_tasks.ledger.schema import upgrade
from tests.support.load import Load, answers, questions
from tests.support.postgres import PostgresServer
from tests.support.processes import Processes, free_port, own_environ, wait_until
from tests.support.tls import Certificate, TlsDoor
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.slow

_PARTS = ("web", "router", "control", "node", "worker")


@dataclass(frozen=True, slots=True)
class _Server:
    """One machine: a state folder of its own and every kind of process."""

    name: str
    environ: dict[str, str]
    #: What `sllm config acl` has written.
    users: Path
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
            url = self.users / f"{part}.url"
            self.processes.start(part, (part,), {**self.environ, "SLLM_REDIS_URL_FILE": str(url)})

    def kill_everything(self) -> None:
        self.processes.kill_all()


@dataclass(frozen=True, slots=True)
class _Broker:
    """A server that knows a user for each kind of process, and strangers not."""

    users: Path
    admin: Redis

    def refusals(self) -> list[str]:
        """What users were refused since it began."""
        log = self.admin.execute_command("ACL", "LOG")
        return [f"{entry[b'username']}: {entry[b'context']} {entry[b'object']}" for entry in log]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[_Broker]:
    """A broker behind TLS, with the users that `sllm config acl` writes."""
    users, certificate = tmp_path / "users", Certificate(tmp_path)
    _write_users(users, "rediss://127.0.0.1:1")
    with (
        ValkeyServer("--aclfile", str(users / "users.acl"), answers_strangers=False) as server,
        TlsDoor(Path(server.url.removeprefix("unix://")), certificate) as door,
    ):
        # Passwords stay; the port was not known before.
        _write_users(users, f"rediss://127.0.0.1:{door.port}/0?ssl_ca_certs={certificate.path}&ssl_cert_reqs=required")
        with Redis.from_url((users / "admin.url").read_text().strip()) as admin:
            yield _Broker(users, admin)


def _write_users(folder: Path, url: str) -> None:
    assert CliRunner().invoke(sllm, ["config", "acl", str(folder), "--url", url]).exit_code == 0


@pytest.fixture
def servers(postgres_server: PostgresServer, broker: _Broker, tmp_path: Path) -> Iterator[tuple[_Server, _Server]]:
    """Two machines, started."""
    with postgres_server.database("ledger_of_two_servers") as ledger_url:
        upgrade(ledger_url)
        made = []
        for name in ("alpha", "beta"):
            environ = own_environ(
                tmp_path / name,
                SLLM_NODE=name,
                SLLM_PORT=str(free_port()),
                SLLM_DATABASE_URL=ledger_url,
                SLLM_SECRET="a secret of both servers",
                SLLM_TORCH_THREADS="1",
                SLLM_GPU_MEMORY_BYTES=str(2**30),
                SLLM_FAILPOINTS="decode.step=sleep:30",
            )
            made.append(_Server(name, environ, broker.users, Processes(tmp_path / name / "logs")))
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
    servers: tuple[_Server, _Server], broker: _Broker, tmp_path: Path
) -> None:
    first, second = servers
    api_key = ensure_admin_key(load_settings(environ=first.environ)[0], first.url)
    assert api_key is not None
    with _client(second, api_key) as client:
        source = make_tiny(tmp_path / "known_to_alpha")
        deployed = client.deploy("tiny", str(source), node="alpha", max_jobs=4, context=256, max_replicas=2)
        client.wait_for(deployed, timeout=180)
        shutil.rmtree(source)
        # The reconciler wants a second copy: it comes from the first server's agent.
        wait_until(lambda: second.checkpoints, "the second server has fetched the checkpoint", 180)
        assert second.checkpoints == first.checkpoints

        asked = questions(16)
        expected = answers(Load(client, api_key), asked[:8])
        _do_what_operators_do(client)
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
    assert broker.refusals() == []


def _do_what_operators_do(client: Client) -> None:
    """Whatever else processes write: gates, the state of gpus, a move, a wish to cancel."""
    client.run(calls.pause_queue("tiny"))
    job = client.submit(model="tiny", prompt="here and there", max_tokens=200, ignore_eos=True)
    client.run(calls.resume_queue("tiny"))
    wait_until(lambda: job.refresh().status == "running", "the job runs")
    node = job.refresh().raw["assignment"]["node"]
    client.run(calls.drain_node(node))
    wait_until(lambda: job.refresh().raw["migrations"] == 1, "the job has moved")
    client.run(calls.undrain_node(node))
    job.cancel()
    # On a busy machine it may have been faster.
    wait_until(lambda: job.refresh().status in {"canceled", "succeeded"}, "the job has ended")


def _nodes_of(load: Load) -> set[str]:
    assignments = [record.raw.get("assignment") for record in load.records().values()]
    return {assignment["node"] for assignment in assignments if assignment}
