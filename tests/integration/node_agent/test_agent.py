"""A node's agent claims what it is told of, and does it once however often it is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from sllm_tasks.cluster import NodeInfo
from sllm_tasks.config import Settings
from sllm_tasks.node_agent.agent import NodeAgent
from sllm_tasks.operations import OperationKind
from sllm_tasks.services import Services
from sllm_tasks.signing import Trigger
from tests.integration.livestate.world import FAR_MS
from tests.support.processes import wait_until
from tests.support.valkey import live_url, valkey_server

__all__ = ["live_url", "valkey_server"]

DIGEST = "0" * 64


@pytest.fixture
def settings(tmp_path: Path, live_url: str) -> Settings:
    return Settings(home=tmp_path, redis_url=live_url, secret="the cluster's", node="n0", pool_bytes=0)


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    with closing(Services(settings, "test")) as opened:
        yield opened


@pytest.fixture
def agent(settings: Settings, services: Services) -> Iterator[NodeAgent]:
    agent = NodeAgent(settings, services)
    agent.start()
    yield agent
    agent.stop()


def test_an_operation_whose_message_comes_twice_runs_once(agent: NodeAgent, services: Services) -> None:
    live = services.live
    trigger = Trigger(task="", subject="op_1", attempt=1, expires_ms=FAR_MS)
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as threads:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        live.fleet.beat_node(NodeInfo(name="n1", checkpoints=frozenset({DIGEST}), url=url), live.now_ms())
        live.operations.create("op_1", 1, {"kind": OperationKind.FETCH, "target": DIGEST, "args": {}})
        first = threads.submit(agent.run_operation, trigger)
        wait_until(lambda: bool((found := live.operations.view("op_1")) and found.owner), "it is claimed", 30)
        second = threads.submit(agent.run_operation, trigger)
        try:
            second.result(timeout=20)
            assert not first.done(), "nobody has answered yet"
        finally:
            live.operations.revoke("op_1")
        first.result(timeout=30)
