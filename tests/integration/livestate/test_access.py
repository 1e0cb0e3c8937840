"""Users of the broker: each kind of process may do its work on the live state, and no more."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from sllm_tasks.app import make_app
from sllm_tasks.cli.main import sllm
from sllm_tasks.cluster import GpuState, NodeInfo
from sllm_tasks.config import Settings
from sllm_tasks.dispatch import drop_queue
from sllm_tasks.jobs import JobStatus
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.access import WRITERS, Process
from sllm_tasks.livestate.router import Applied, NewReplica
from sllm_tasks.migration.states import MigrationReason
from tests.integration.livestate.world import (
    FAR_MS,
    GPU,
    OTHER_GPU,
    SUCCEEDED,
    WORKER,
    World,
    job_spec,
    model_info,
    replica_order,
)
from tests.support.state_document import documented_keys
from tests.support.valkey import ValkeyServer


def _write(folder: Path) -> dict[str, str]:
    """Run `sllm config acl`; returns the URLs that it wrote, by process."""
    done = CliRunner().invoke(sllm, ["config", "acl", str(folder), "--url", "redis://broker:6379/0"])
    assert done.exit_code == 0, done.output
    return {path.stem: path.read_text().strip() for path in folder.glob("*.url")}


@pytest.fixture(scope="module")
def passwords() -> Iterator[dict[str, str]]:
    """Passwords by process, of a server with the users that `sllm config acl` has written; its URL is `server`."""
    with tempfile.TemporaryDirectory(prefix="sllm-acl-") as folder:
        urls = _write(Path(folder))
        with ValkeyServer("--aclfile", str(Path(folder) / "users.acl"), answers_strangers=False) as server:
            found = {name: url.split(":")[2].split("@")[0] for name, url in urls.items()}
            yield {**found, "server": server.url}


@pytest.fixture
def admin(passwords: dict[str, str]) -> Iterator[Redis]:
    """The operator's connection."""
    with Redis.from_url(passwords["server"], username="sllm-admin", password=passwords["admin"]) as redis:
        yield redis


def _may(admin: Redis, process: Process, command: str) -> bool:
    return bool(admin.execute_command("ACL", "DRYRUN", process.user, *command.split()) == b"OK")  # type: ignore[no-untyped-call]


def test_every_documented_key_has_its_writers() -> None:
    assert list(WRITERS) == [form.text for form in documented_keys()]


def test_without_a_user_nobody_comes_in(passwords: dict[str, str]) -> None:
    with Redis.from_url(passwords["server"]) as redis, pytest.raises(AuthenticationError):
        redis.get("sllm:counters")


@pytest.mark.parametrize("process", list(Process))
def test_no_process_may_do_what_none_of_them_does(admin: Redis, process: Process) -> None:
    commands = (
        "FLUSHALL; FLUSHDB; KEYS *; SCAN 0; RANDOMKEY; CONFIG GET dir; CONFIG SET dir /; ACL WHOAMI; ACL LIST; INFO; "
        "CLIENT LIST; CLIENT KILL TYPE normal; DEBUG SLEEP 1; SHUTDOWN; REPLICAOF h 1; MODULE LIST; SAVE; "
        "SCRIPT FLUSH; FUNCTION FLUSH; MONITOR; SWAPDB 0 1; GET other; SET other 1; PUBLISH other 1; SUBSCRIBE other; "
        "EVAL x 1 other; MIGRATE h 1 sllm:job:1 0 1; COPY sllm:feed other; RENAME sllm:feed sllm:reports2"
    )
    assert [command for command in commands.split("; ") if _may(admin, process, command)] == []


@pytest.mark.parametrize(("key", "writers"), WRITERS.items(), ids=WRITERS)
def test_a_key_is_written_by_its_writers_alone(admin: Redis, key: str, writers: frozenset[Process]) -> None:
    written = key.replace("<", "").replace(">", "")
    assert {process for process in Process if _may(admin, process, f"DEL {written}")} == writers


@pytest.mark.parametrize(
    ("queue", "owner"),
    [
        ("router", Process.ROUTER),
        ("control", Process.CONTROL),
        ("node.alpha", Process.NODE),
        ("gpu.alpha.0", Process.WORKER),
    ],
)
def test_a_queue_is_read_and_popped_by_its_owner_alone(admin: Redis, queue: str, owner: Process) -> None:
    for command in (f"BRPOP {queue} 1", f"LRANGE {queue} 0 1"):
        assert {process for process in Process if _may(admin, process, command)} == {owner}


def test_the_web_process_wakes_routers_and_workers_and_nobody_else(admin: Redis) -> None:
    queues = ("router", "gpu.alpha.0", "node.alpha", "control", "unacked")
    assert [queue for queue in queues if _may(admin, Process.WEB, f"LPUSH {queue} x")] == ["router", "gpu.alpha.0"]


def test_a_node_agent_learns_nothing_about_jobs(admin: Redis) -> None:
    assert not _may(admin, Process.NODE, "HGETALL sllm:job:1")
    assert _may(admin, Process.WORKER, "HGETALL sllm:job:1")


def test_a_script_may_do_no_more_than_its_user(passwords: dict[str, str]) -> None:
    with Redis.from_url(passwords["server"], username=Process.NODE.user, password=passwords["node"]) as node:
        assert node.eval("return redis.call('SET', 'sllm:node:alpha', '1')", 0)
        with pytest.raises((NoPermissionError, ResponseError), match=r"[Nn]o permissions"):
            node.eval("return redis.call('HSET', 'sllm:job:1', 'status', 'succeeded')", 0)


@pytest.fixture
def worlds(passwords: dict[str, str], admin: Redis) -> Iterator[dict[Process, World]]:
    """What each process does, by its own connection."""
    path = passwords["server"].removeprefix("unix://")
    with ExitStack() as opened:
        urls = {process: f"unix://{process.user}:{passwords[process]}@{path}" for process in Process}
        yield {process: World(opened.enter_context(LiveState(url)), admin) for process, url in urls.items()}


def test_each_process_may_do_its_work(worlds: dict[Process, World], admin: Redis) -> None:
    admin.execute_command("ACL", "LOG", "RESET")  # type: ignore[no-untyped-call]
    web, router, control, node, worker = (worlds[process] for process in Process)
    assert not web.live.memory_is_full()
    assert control.live.written_at_ms()
    router.lead()
    router.open_gates()
    worker.add_gpu(GPU, WORKER, replica_order())
    worker.add_gpu(OTHER_GPU, "worker_b", replica_order("replica_9", gpu=OTHER_GPU))
    web.live.jobs.create(job_spec())
    claim = worker.claim()
    worker.append(claim, 0)
    with closing(worker.live.migrations.listen(OTHER_GPU)):
        web.live.migrations.start("migration_1", "job_1", reason=MigrationReason.OPERATOR, target_replica="replica_9")
    worker.live.migrations.acknowledge("migration_1", "worker_b", round_=0, num_tokens=0, prefix_hash="", seconds=0)
    worker.live.migrations.send_round("migration_1", claim, 1, 0, [100])
    web.live.jobs.cancel("job_1", "user")
    worker.live.jobs.finish(claim, SUCCEEDED)
    assert control.live.reports.read(100, 10)
    control.live.jobs.end("job_1", JobStatus.SUCCEEDED, {})

    web.live.queues.set_paused("model:n", paused=True)
    web.live.jobs.create(job_spec("job_2", model="n"))
    web.live.router.kick()
    router.live.router.note_wait("job_2", 1, "why not")
    assert router.apply("job_2", "replica_2", NewReplica(model=model_info("n"), gpus=(GPU,))) is Applied.OK
    worker.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    worker.silence(GPU)
    control.live.fleet.reap_gpu(GPU)
    control.live.jobs.forget("job_2")

    control.live.operations.create("op_1", 1, {})
    assert node.live.operations.claim("op_1", 1, "agent", FAR_MS) == {}
    node.live.operations.finish("op_1", 1, "agent", {})
    node.live.fleet.beat_node(NodeInfo(name="node0", checkpoints=frozenset()), node.live.now_ms())
    assert web.live.fleet.nodes(web.live.now_ms()) == node.live.fleet.nodes(web.live.now_ms()) != []
    assert admin.execute_command("ACL", "LOG") == []  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("sender", "queue", "receiver"),
    [
        (Process.WEB, "router", Process.ROUTER),
        (Process.WEB, "gpu.alpha.0", Process.WORKER),
        (Process.ROUTER, "gpu.alpha.0", Process.WORKER),
        (Process.CONTROL, "node.alpha", Process.NODE),
        (Process.WORKER, "router", Process.ROUTER),
    ],
)
def test_a_message_gets_to_whom_it_is_for(
    passwords: dict[str, str], admin: Redis, sender: Process, queue: str, receiver: Process
) -> None:
    admin.execute_command("ACL", "LOG", "RESET")  # type: ignore[no-untyped-call]
    path = passwords["server"].removeprefix("unix://")
    apps = {
        process: make_app(Settings(redis_url=f"unix://{process.user}:{passwords[process]}@{path}"), "test")
        for process in (sender, receiver)
    }
    apps[sender].send_task("sllm.test", kwargs={"a": 1}, queue=queue, ignore_result=True)
    with apps[receiver].connection_for_read() as connection, closing(connection.SimpleQueue(queue)) as messages:
        messages.get(timeout=10).ack()
    if sender is Process.CONTROL:
        drop_queue(apps[sender], GPU)
    for app in apps.values():
        app.close()
    assert admin.execute_command("ACL", "LOG") == []  # type: ignore[no-untyped-call]


def test_written_again_the_file_has_the_rules_of_this_version_and_the_passwords_that_were(tmp_path: Path) -> None:
    urls, rules = _write(tmp_path / "broker"), (tmp_path / "broker" / "users.acl").read_text()
    (tmp_path / "broker" / "users.acl").write_text("of an earlier version")
    assert _write(tmp_path / "broker") == urls
    assert (tmp_path / "broker" / "users.acl").read_text() == rules
    assert set(urls) == {"admin", *Process}
    assert not any(url.split(":")[2].split("@")[0] in rules for url in urls.values())
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "broker").glob("*.url")} == {0o600}
