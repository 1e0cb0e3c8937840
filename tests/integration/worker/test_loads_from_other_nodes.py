"""A worker loads what its node does not have from the agents of nodes that do, whatever happens to them meanwhile."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from loaders.checkpoint import LoadedCheckpoint
from loaders.devices.loaded import LoadedFrom
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.pool import Pool
from loaders.memory.records import ContentKey
from sllm_tasks.config import Settings
from sllm_tasks.errors import ErrorCode, ModelUnusableError, StaleError
from sllm_tasks.node_agent.peers import PeerServer
from sllm_tasks.node_agent.store import CheckpointStore
from sllm_tasks.worker.checkpoints import Checkpoints
from sllm_tasks.worker.memory import NodeMemory
from tests.integration.node_agent.conftest import publish
from tests.support.file_server import FileServer

SECRET = "the cluster's"


@pytest.fixture
def there(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "there")


@pytest.fixture
def digest(there: CheckpointStore) -> str:
    """A checkpoint of four chunks on another node."""
    return publish(there, num_chunks=4)


@pytest.fixture
def agent(there: CheckpointStore) -> Iterator[str]:
    server = PeerServer(Settings(), there, SECRET)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def dying(there: CheckpointStore, digest: str, tmp_path: Path) -> Iterator[FileServer]:
    """An agent that sends nothing more once the third chunk is asked for."""
    shutil.copytree(there.path(digest), tmp_path / "served" / "checkpoints" / digest)
    with FileServer(tmp_path / "served") as server:
        server.has_versions = False

        def die(name: str, begin: int) -> None:
            if name.endswith(".bin") and begin >= 2 * CHUNK_BYTES:
                server.break_off_after = 0

        server.before_range = die
        yield server


class Node:
    """A node that has a pool, and nothing on its SSD."""

    def __init__(self, home: Path) -> None:
        settings = Settings(home=home, node="here", pool_bytes=8 * CHUNK_BYTES, pool_home=home)
        self.pool = Pool.open(settings.pool_folder, settings.pool_capacity_bytes)
        self._memory = NodeMemory(settings, "cpu")
        self._memory.start()
        self._folder = settings.node_home / "checkpoints"
        self._folder.mkdir(parents=True)

    def load(
        self, digest: str, find_urls: Callable[[], list[str]], cancel: threading.Event | None = None
    ) -> LoadedCheckpoint:
        checkpoints = Checkpoints("here", self._folder, SECRET, lambda _: {url: url for url in find_urls()}, "cpu")
        cancel = cancel or threading.Event()
        with checkpoints.open(digest, cancel) as opened:
            return self._memory.load(opened, ("cpu",), with_model=False, on_progress=lambda _: None, cancel=cancel)

    def stop(self) -> None:
        assert list(self._folder.iterdir()) == []
        self.pool.close()
        self._memory.stop()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "here")
    yield node
    node.stop()


def is_right(loaded: LoadedCheckpoint) -> bool:
    generator = torch.Generator().manual_seed(0)
    num_bytes = loaded.tensors["weights"].numel()
    return torch.equal(
        loaded.tensors["weights"], torch.randint(0, 255, (num_bytes,), dtype=torch.uint8, generator=generator)
    )


def test_what_comes_from_another_node_is_in_the_pool_for_the_next_load(node: Node, agent: str, digest: str) -> None:
    with node.load(digest, lambda: [agent]) as loaded:
        assert is_right(loaded)
        assert loaded.report.loaded_from is LoadedFrom.REMOTE
    with node.load(digest, lambda: [agent]) as loaded:
        assert (is_right(loaded), loaded.report.loaded_from) == (True, LoadedFrom.POOL)


def test_a_load_goes_on_from_another_copy_when_a_node_dies_in_the_middle(
    node: Node, agent: str, dying: FileServer, digest: str
) -> None:
    with node.load(digest, lambda: [dying.url, agent]) as loaded:
        assert is_right(loaded)
    assert dying.break_off_after == 0


def test_an_agent_that_was_started_again_is_found_at_its_new_address(
    node: Node, agent: str, dying: FileServer, digest: str
) -> None:
    with node.load(digest, lambda: [agent] if dying.break_off_after == 0 else [dying.url]) as loaded:
        assert is_right(loaded)


def test_a_load_that_nobody_can_complete_gives_everything_back_and_may_begin_elsewhere(
    node: Node, dying: FileServer, agent: str, digest: str
) -> None:
    with pytest.raises(StaleError, match="broke off"):
        node.load(digest, lambda: [dying.url])
    # Nobody holds any of it: the next load of something else may have all of the room.
    with ExitStack() as block:
        block.enter_context(node.pool.lease(ContentKey("another"), node.pool.capacity_bytes))
    with node.load(digest, lambda: [agent]) as loaded:
        assert is_right(loaded)


def test_another_node_that_reports_what_it_does_not_serve_is_not_asked_again_and_again(
    node: Node, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sllm_tasks.worker.checkpoints._REPORTED_IN_S", 0.3)
    with pytest.raises(ModelUnusableError, match="404") as caught:
        node.load("0" * 64, lambda: [agent])
    assert caught.value.code is ErrorCode.UNAVAILABLE


def test_a_copy_that_another_node_has_lost_a_moment_ago_is_looked_for_elsewhere(node: Node, agent: str) -> None:
    reports = iter([[agent]] * 5)
    with pytest.raises(StaleError, match="404"):
        node.load("0" * 64, lambda: next(reports, []))
