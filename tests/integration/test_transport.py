"""Kombu's Redis transport as our processes use it: a broker that goes and comes back finds them at work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.entity import Queue
from kombu.message import Message
from kombu.transport.redis import Mutex

from sllm_tasks.app import make_app
from sllm_tasks.config import Settings
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer

#: A process that takes one message at a time, as the router does: it notes a number, and goes on when it may.
_ONE_AT_A_TIME = """
import sys, time
from pathlib import Path
from sllm_tasks.app import make_app
from sllm_tasks.config import Settings
from sllm_tasks.process import run_worker

folder = Path(sys.argv[2])
app = make_app(Settings(redis_url=sys.argv[1]), "one")

@app.task(name="note")
def note(number):
    (folder / f"began-{number}").touch()
    while not (folder / f"go-on-{number}").exists():
        time.sleep(0.01)

run_worker(app, hostname="one@here", queues=["one"], pool="solo", concurrency=1, log_level="INFO")
"""


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with ValkeyServer() as server:
        yield server


@pytest.fixture
def log(server: ValkeyServer, tmp_path: Path) -> Iterator[Path]:
    """What such a process writes."""
    path = tmp_path / "log"
    with path.open("wb") as output:
        command = [sys.executable, "-c", _ONE_AT_A_TIME, server.url, str(tmp_path)]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ)
    try:
        yield path
    finally:
        process.kill()
        process.wait()


def test_a_process_whose_broker_went_in_the_middle_of_its_one_message_takes_the_next(
    server: ValkeyServer, log: Path, tmp_path: Path
) -> None:
    def send(number: int) -> None:
        with make_app(Settings(redis_url=server.url), "sender") as app:
            app.send_task("note", args=[number], queue="one")

    send(1)
    wait_until((tmp_path / "began-1").exists, "the first message")
    server.kill()
    (tmp_path / "go-on-1").touch()
    wait_until(lambda: "Couldn't ack" in log.read_text(), "an acknowledgement that fails")
    server.start()
    send(2)
    wait_until((tmp_path / "began-2").exists, "the second message")


def test_a_process_that_dies_while_it_restores_messages_keeps_others_from_it_for_ten_seconds(
    server: ValkeyServer,
) -> None:
    with make_app(Settings(redis_url=server.url), "one").connection() as connection:
        channel = connection.default_channel
        with (
            channel.conn_or_acquire() as client,
            Mutex(client, channel.unacked_mutex_key, channel.unacked_mutex_expire),
        ):
            assert 0 < client.pttl(channel.unacked_mutex_key) <= 10_000


def test_a_message_of_a_queue_without_acknowledgements_is_settled_once_it_is_read(server: ValkeyServer) -> None:
    got: list[Message] = []
    queue = Queue("triggers", no_ack=True)  # type: ignore[no-untyped-call]  # kombu has no types
    with make_app(Settings(redis_url=server.url), "one") as app, app.connection() as connection:
        app.send_task("wake", queue="triggers")
        with connection.Consumer([queue], callbacks=[lambda _, message: got.append(message)]):
            connection.drain_events(timeout=10)
        got[0].ack()
        with connection.default_channel.conn_or_acquire() as client:
            assert not client.exists("unacked", "unacked_index", "triggers")
