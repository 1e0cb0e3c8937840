"""Checkpoints move from node to node whole and signed, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from sllm_tasks.config import Settings
from sllm_tasks.errors import ErrorCode, ModelUnusableError, UnavailableError
from sllm_tasks.node_agent.peers import PeerServer, fetch_checkpoint
from sllm_tasks.node_agent.store import CheckpointStore

SECRET = "the cluster's"


@pytest.fixture
def stores(tmp_path: Path) -> tuple[CheckpointStore, CheckpointStore]:
    return CheckpointStore(tmp_path / "here"), CheckpointStore(tmp_path / "there")


@pytest.fixture
def server(stores: tuple[CheckpointStore, CheckpointStore]) -> Iterator[PeerServer]:
    server = PeerServer(Settings(), stores[1], SECRET)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def digest(stores: tuple[CheckpointStore, CheckpointStore], tmp_path: Path) -> str:
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(bytes(range(256)) * 20_000)
    return stores[1].import_directory(source, lambda _: None)


def test_a_fetched_checkpoint_is_the_same_to_the_byte(
    stores: tuple[CheckpointStore, CheckpointStore], server: PeerServer, digest: str
) -> None:
    here, there = stores
    seen: list[int] = []
    fetch_checkpoint(server.url, digest, here, SECRET, seen.append)
    assert here.digests() == {digest}
    for path in there.path(digest).iterdir():
        assert (here.path(digest) / path.name).read_bytes() == path.read_bytes()
    assert seen[-1] == 256 * 20_000 + len("{}")


def test_a_changed_byte_is_noticed_and_nothing_is_kept(
    stores: tuple[CheckpointStore, CheckpointStore], server: PeerServer, digest: str
) -> None:
    here, there = stores
    weights = there.path(digest) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[12_345] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelUnusableError) as caught:
        fetch_checkpoint(server.url, digest, here, SECRET, lambda _: None)
    assert caught.value.code is ErrorCode.CHECKPOINT_CORRUPT
    assert here.digests() == frozenset()


def test_nothing_is_served_to_whoever_does_not_know_the_secret(
    stores: tuple[CheckpointStore, CheckpointStore], server: PeerServer, digest: str
) -> None:
    with pytest.raises(UnavailableError, match="403"):
        fetch_checkpoint(server.url, digest, stores[0], "another", lambda _: None)
    assert httpx2.get(f"{server.url}/checkpoints/{digest}/config.json").status_code == 403


def test_a_peer_that_does_not_have_it_says_so(
    stores: tuple[CheckpointStore, CheckpointStore], server: PeerServer
) -> None:
    with pytest.raises(UnavailableError, match="404"):
        fetch_checkpoint(server.url, "0" * 64, stores[0], SECRET, lambda _: None)


def test_a_peer_that_is_away_is_unavailable(
    stores: tuple[CheckpointStore, CheckpointStore], server: PeerServer, digest: str
) -> None:
    server.stop()
    with pytest.raises(UnavailableError):
        fetch_checkpoint(server.url, digest, stores[0], SECRET, lambda _: None)
