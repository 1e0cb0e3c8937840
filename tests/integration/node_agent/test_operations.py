"""What a node's agent does with checkpoints when control asks for it, and what is left when it cannot be done."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from loaders.memory.pool_folder import remove_pool
from scripts.demo_checkpoints import make_tiny
from sllm_tasks.cluster import NodeInfo
from sllm_tasks.config import Settings
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.livestate import LiveState
from sllm_tasks.node_agent.apart.process import Work, work_apart
from sllm_tasks.node_agent.dram import DramTier
from sllm_tasks.node_agent.lease import OperationLease
from sllm_tasks.node_agent.operations import NodeOperations
from sllm_tasks.node_agent.peers import PeerServer
from sllm_tasks.node_agent.room import RoomKeeper
from sllm_tasks.node_agent.store import CheckpointStore
from sllm_tasks.operations import OperationKind
from sllm_tasks.signing import Trigger
from tests.integration.livestate.world import FAR_MS
from tests.integration.node_agent.conftest import Nursery, Watch, publish
from tests.integration.node_agent.test_import import change_config
from tests.integration.node_agent.test_peers import damage
from tests.support.file_server import FileServer
from tests.support.processes import wait_until
from tests.support.races import run_together
from tests.support.valkey import live_url, valkey_server

__all__ = ["live_url", "valkey_server"]

CHUNK_BYTES = 16 << 20
SECRET = "the cluster's"


class Node:
    """A node's operations over a store and a pool of four chunks, without heartbeat."""

    def __init__(
        self,
        store: CheckpointStore,
        pool: Path,
        live: LiveState,
        limit_bytes: int | None = None,
        nursery: Path | None = None,
    ) -> None:
        self.store = store
        self.dram = DramTier(pool, 4 * CHUNK_BYTES)
        self.peers: list[NodeInfo] = []
        self._live = live
        self._numbers = count(1)
        self._operations = NodeOperations(
            node="n0",
            secret=SECRET,
            store=store,
            rooms=RoomKeeper(store, limit_bytes),
            dram=self.dram,
            peers=lambda: self.peers,
            nursery=nursery,
        )

    def run(self, kind: OperationKind, target: str = "", **args: Any) -> dict[str, Any]:
        """Run an operation under a lease."""
        operation_id = f"op_{next(self._numbers)}"
        self._live.operations.create(operation_id, 1, {})
        self._live.operations.claim(operation_id, 1, "agent", FAR_MS)
        trigger = Trigger(task="", subject=operation_id, attempt=1, expires_ms=FAR_MS)
        with OperationLease(self._live.operations, "agent", trigger) as lease:
            return self._operations.run(kind, target, args, lease)


@pytest.fixture
def live(live_url: str) -> Iterator[LiveState]:
    with LiveState(live_url) as opened:
        yield opened


@pytest.fixture
def node(store: CheckpointStore, tmp_path: Path, live: LiveState) -> Iterator[Node]:
    with opened_node(store, tmp_path, live) as node:
        yield node


@contextmanager
def opened_node(store: CheckpointStore, tmp_path: Path, live: LiveState, nursery: Path | None = None) -> Iterator[Node]:
    node = Node(store, tmp_path / "pool", live, nursery=nursery)
    yield node
    node.dram.close()
    remove_pool(tmp_path / "pool")


def test_a_deployed_directory_is_stored_under_its_digest_and_a_second_time_nothing_changes(
    store: CheckpointStore, tmp_path: Path, live: LiveState, nursery: Nursery
) -> None:
    source = make_tiny(tmp_path / "tiny")
    with opened_node(store, tmp_path, live, nursery.path) as node:
        result = node.run(OperationKind.DEPLOY, "m", source=str(source), num_gpus=1)
        assert store.digests() == {result["digest"]}
        assert result["num_bytes"] == store.num_bytes(result["digest"])
        assert node.run(OperationKind.DEPLOY, "m", source=str(source), num_gpus=1) == result
    assert store.aside() == []


def test_deployments_of_one_directory_at_the_same_moment_all_get_it(
    store: CheckpointStore, tmp_path: Path, live: LiveState, nursery: Nursery
) -> None:
    source = make_tiny(tmp_path / "tiny")
    with opened_node(store, tmp_path, live, nursery.path) as node:
        for _ in range(5):
            deploy = partial(node.run, OperationKind.DEPLOY, "m", source=str(source), num_gpus=1)
            results = run_together([deploy] * 3)
            (digest,) = {result["digest"] for result in results}
            assert node.run(OperationKind.VERIFY, digest)["num_bytes"] > 0
            store.delete(digest)
    assert (store.digests(), store.aside()) == (frozenset(), [])


def test_a_directory_that_is_not_here_is_missing_so_that_another_node_is_asked(node: Node, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusableError) as caught:
        node.run(OperationKind.DEPLOY, "m", source=str(tmp_path / "nowhere"), num_gpus=1)
    assert caught.value.code is ErrorCode.CHECKPOINT_MISSING


def test_a_sound_copy_stays_and_a_damaged_one_is_put_aside(node: Node) -> None:
    digest = publish(node.store, num_chunks=2)
    assert node.run(OperationKind.VERIFY, digest)["num_bytes"] > CHUNK_BYTES
    damage(node.store, digest, CHUNK_BYTES + 3)
    with pytest.raises(ModelUnusableError, match="put aside") as caught:
        node.run(OperationKind.VERIFY, digest)
    assert caught.value.code is ErrorCode.CHECKPOINT_CORRUPT
    assert (node.store.digests(), len(node.store.aside())) == (frozenset(), 1)


def test_a_copy_stays_when_the_process_that_reads_it_dies(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = publish(node.store)
    # No interpreter starts there: it ends as one does that is killed where memory is short.
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    with pytest.raises(ModelUnusableError, match="verify_checkpoint died") as caught:
        node.run(OperationKind.VERIFY, digest)
    assert caught.value.code is ErrorCode.INTERNAL
    assert (node.store.digests(), node.store.aside()) == ({digest}, [])


def test_a_checkpoint_is_kept_in_dram_until_it_is_evicted(node: Node) -> None:
    digest = publish(node.store, num_chunks=2)
    result = node.run(OperationKind.PREFETCH, digest)
    assert result["read_bytes"] == result["num_bytes"]
    report = node.dram.report()
    assert (report.complete, report.kept) == ({digest}, {digest})
    assert report.usage is not None
    assert report.usage.used_bytes == 2 * CHUNK_BYTES
    assert node.run(OperationKind.PREFETCH, digest)["read_bytes"] == 0
    assert node.run(OperationKind.EVICT, digest)["is_freed"]
    assert (node.dram.report().complete, node.dram.report().kept) == (frozenset(), frozenset())


def test_what_does_not_fit_into_dram_is_refused_with_the_numbers(node: Node) -> None:
    digest = publish(node.store, num_chunks=5)
    with pytest.raises(ModelUnusableError, match=f"needs {5 * CHUNK_BYTES} bytes of the pool") as caught:
        node.run(OperationKind.PREFETCH, digest)
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    assert node.dram.report().complete == frozenset()


def test_a_dropped_checkpoint_is_neither_on_the_ssd_nor_in_dram(node: Node) -> None:
    digest = publish(node.store)
    node.run(OperationKind.PREFETCH, digest)
    node.run(OperationKind.DROP_CHECKPOINT, digest)
    assert (node.store.digests(), node.dram.report().complete) == (frozenset(), frozenset())


def test_calibration_reads_stored_checkpoints_and_copies_memory(node: Node) -> None:
    with pytest.raises(ModelUnusableError, match="no checkpoint"):
        node.run(OperationKind.CALIBRATE, "n0")
    digests = [publish(node.store), publish(node.store, num_chunks=3, seed=1)]
    result = node.run(OperationKind.CALIBRATE, "n0")
    sizes = [(node.store.path(digest) / "partition_00000.bin").stat().st_size for digest in digests]
    assert (result["checkpoint"], result["ssd"]["num_bytes"]) == (digests[1], sum(sizes))
    assert result["ssd"]["seconds"] > 0
    assert result["dram"]["num_bytes"] / result["dram"]["seconds"] > 1e6


def test_a_fetch_beyond_the_limit_is_refused_and_leaves_nothing(
    store: CheckpointStore, tmp_path: Path, live: LiveState
) -> None:
    there = CheckpointStore(tmp_path / "there")
    digest = publish(there, num_chunks=2)
    node = Node(store, tmp_path / "pool", live, limit_bytes=20 << 20)
    with ExitStack() as resources:
        server = PeerServer(Settings(), there, SECRET)
        server.start()
        resources.callback(server.stop)
        node.peers = [NodeInfo(name="n1", checkpoints=frozenset({digest}), url=server.url)]
        with pytest.raises(ModelUnusableError, match=f"of {20 << 20} are free") as caught:
            node.run(OperationKind.FETCH, digest)
    assert caught.value.code is ErrorCode.DISK_FULL
    assert (store.digests(), store.aside()) == (frozenset(), [])


def test_a_checkpoint_that_no_live_node_has_is_missing(node: Node) -> None:
    node.peers = [NodeInfo(name="n1", checkpoints=frozenset(), url="http://127.0.0.1:1")]
    with pytest.raises(ModelUnusableError, match="no live node has"):
        node.run(OperationKind.FETCH, "0" * 64)


def test_what_no_live_node_has_comes_again_from_its_url_unless_that_has_something_else_by_now(
    store: CheckpointStore, tmp_path: Path, live: LiveState, nursery: Nursery
) -> None:
    source = make_tiny(tmp_path / "web" / "tiny")
    with FileServer(tmp_path / "web") as server, opened_node(store, tmp_path, live, nursery.path) as node:
        args = {"source": f"{server.url}/tiny", "num_gpus": 1}
        digest = node.run(OperationKind.DEPLOY, "m", **args)["digest"]
        store.delete(digest)
        with pytest.raises(ModelUnusableError, match="not imported from a URL"):
            node.run(OperationKind.FETCH, digest)
        assert node.run(OperationKind.FETCH, digest, **args) == {"digest": digest}
        assert store.digests() == {digest}
        store.delete(digest)
        change_config(rms_norm_eps=0.5)(source)
        with pytest.raises(ModelUnusableError, match=f"no live node has checkpoint {digest}, and by now") as changed:
            node.run(OperationKind.FETCH, digest, **args)
        (source / "config.json").unlink()
        with pytest.raises(ModelUnusableError, match="importing it again failed"):
            node.run(OperationKind.FETCH, digest, **args)
    assert changed.value.code is ErrorCode.CHECKPOINT_MISSING
    assert (store.digests(), store.aside()) == (frozenset(), [])


def test_what_a_process_died_of_is_told(store: CheckpointStore) -> None:
    with pytest.raises(ModelUnusableError, match="verify_checkpoint died with status 1: KeyError: 'path'"):
        work_apart(Work.VERIFY, {}, Watch())


def test_work_that_runs_apart_ends_with_its_agent(store: CheckpointStore) -> None:
    # Stands for an agent; it is killed while its process waits for an answer.
    agent = (
        "import subprocess, sys\n"
        "work = [sys.executable, '-m', 'sllm_tasks.node_agent.apart.fetch_checkpoint']\n"
        "child = subprocess.Popen(work, stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        "child.stdin.write(sys.argv[1].encode() + b'\\n')\n"
        "child.stdin.flush()\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with _silent_peer() as silent:
        request = {"digest": "0" * 64, "urls": [silent], "secret": "s", "destination": str(store.finished("x"))}
        process = subprocess.Popen([sys.executable, "-c", agent, json.dumps(request)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.stdout.close()
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until(lambda: not _is_alive(child), "the process has ended", 30)


@contextmanager
def _silent_peer() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def _is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
