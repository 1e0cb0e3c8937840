"""Checkpoints move from node to node whole, checked and signed, or not at all."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from loaders.format.verify import verify
from sllm_tasks.config import Settings
from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.node_agent.apart.process import Work, work_apart
from sllm_tasks.node_agent.peers import PeerServer
from sllm_tasks.node_agent.store import CheckpointStore
from sllm_tasks.peers.paths import MAC_HEADER, mac
from tests.integration.node_agent.conftest import Watch, publish

SECRET = "the cluster's"
CHUNK_BYTES = 16 << 20


@contextmanager
def serving(store: CheckpointStore) -> Iterator[str]:
    server = PeerServer(Settings(), store, SECRET)
    server.start()
    yield server.url
    server.stop()


@pytest.fixture
def there(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "there")


@pytest.fixture
def url(there: CheckpointStore) -> Iterator[str]:
    with serving(there) as url:
        yield url


def fetch(store: CheckpointStore, digest: str, *urls: str, secret: str = SECRET, watch: Watch | None = None) -> Any:
    request = {"digest": digest, "urls": urls, "secret": secret, "destination": str(store.finished(digest))}
    return work_apart(Work.FETCH, request, watch or Watch())


def damage(store: CheckpointStore, digest: str, offset: int) -> None:
    """Change a byte of a stored checkpoint."""
    partition = store.path(digest) / "partition_00000.bin"
    partition.chmod(0o644)
    with partition.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def test_a_fetched_checkpoint_is_the_same_to_the_byte(store: CheckpointStore, there: CheckpointStore, url: str) -> None:
    digest, watch = publish(there, num_chunks=3), Watch()
    result = fetch(store, digest, url, watch=watch)
    assert verify(store.finished(digest)).digest == digest
    for path in there.path(digest).rglob("*.*"):
        copy = store.finished(digest) / path.relative_to(there.path(digest))
        assert copy.read_bytes() == path.read_bytes()
    assert (result["num_bytes"], result["fetched_bytes"]) == (watch.progress[-1][1],) * 2


def test_a_damaged_chunk_is_fetched_from_another_peer(
    store: CheckpointStore, there: CheckpointStore, url: str, tmp_path: Path
) -> None:
    third = CheckpointStore(tmp_path / "third")
    digest = publish(there, num_chunks=3)
    publish(third, num_chunks=3)
    damage(there, digest, 2 * CHUNK_BYTES + 7)
    with serving(third) as other:
        result = fetch(store, digest, url, other)
    assert verify(store.finished(digest)).digest == digest
    assert result["fetched_bytes"] > result["num_bytes"]


def test_a_checkpoint_that_is_damaged_everywhere_is_refused_and_the_chunk_is_named(
    store: CheckpointStore, there: CheckpointStore, url: str
) -> None:
    digest = publish(there, num_chunks=2)
    damage(there, digest, CHUNK_BYTES + 1)
    with pytest.raises(ModelUnusableError, match=f"chunk at byte {CHUNK_BYTES}: digest") as caught:
        fetch(store, digest, url)
    assert caught.value.code is ErrorCode.CHECKPOINT_CORRUPT
    assert (store.digests(), store.finished(digest).exists()) == (frozenset(), False)


def test_an_interrupted_fetch_goes_on_where_it_stopped(
    store: CheckpointStore, there: CheckpointStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = publish(there, num_chunks=8)
    # Chunk 6 is asked for when at least three before it are on the disk.
    monkeypatch.setenv("SLLM_FAILPOINTS", "fetch.chunk=kill9@6")
    with pytest.raises(ModelUnusableError, match="died with status -9"):
        fetch(store, digest, url)
    monkeypatch.delenv("SLLM_FAILPOINTS")
    result = fetch(store, digest, url)
    assert verify(store.finished(digest)).digest == digest
    assert result["num_bytes"] - result["fetched_bytes"] >= 3 * CHUNK_BYTES


def test_a_peer_that_is_away_does_not_matter_while_another_one_answers(
    store: CheckpointStore, there: CheckpointStore, url: str
) -> None:
    digest = publish(there)
    with ExitStack() as block:
        gone = block.enter_context(serving(there))
        block.close()
        fetch(store, digest, gone, url)
    assert verify(store.finished(digest)).digest == digest


@contextmanager
def breaking_off(url: str) -> Iterator[str]:
    """A peer that sends nothing of the weights it is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {MAC_HEADER: mac(SECRET, self.path)}
            if (wanted := self.headers.get("Range")) is not None:
                headers["Range"] = wanted
            answer = httpx2.get(url + self.path, headers=headers)
            self.send_response(answer.status_code)
            for name in ("content-length", "content-range"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            is_weights = len(answer.content) > 1 and self.path.endswith(".bin")
            self.wfile.write(b"" if is_weights else answer.content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_peer_that_breaks_off_is_unavailable_and_nothing_is_published(
    store: CheckpointStore, there: CheckpointStore, url: str
) -> None:
    digest = publish(there)
    with breaking_off(url) as silent, pytest.raises(ModelUnusableError) as caught:
        fetch(store, digest, silent)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert not store.finished(digest).exists()


def test_nothing_is_served_to_whoever_does_not_know_the_secret(
    store: CheckpointStore, there: CheckpointStore, url: str
) -> None:
    digest = publish(there)
    with pytest.raises(ModelUnusableError, match="403") as caught:
        fetch(store, digest, url, secret="another")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert httpx2.get(f"{url}/checkpoints/{digest}/manifest.json").status_code == 403


def test_a_signature_that_cannot_be_one_is_refused_as_any_other(there: CheckpointStore, url: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", f"/checkpoints/{publish(there)}/manifest.json", headers={MAC_HEADER: "é"})
    assert connection.getresponse().status == 403
    connection.close()


def test_a_node_may_have_an_ipv6_address(store: CheckpointStore, there: CheckpointStore) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    server = PeerServer(Settings(node_host="::1"), there, SECRET)
    server.start()
    try:
        digest = publish(there)
        assert fetch(store, digest, server.url)["num_bytes"] > 0
    finally:
        server.stop()


@pytest.mark.parametrize(
    "name", ["../../secret", "model/../../secret", "model", "partition_0.bin", "", "%2e%2e/secret"]
)
def test_only_files_of_the_format_are_served(there: CheckpointStore, url: str, name: str) -> None:
    path = f"/checkpoints/{publish(there)}/{name}"
    (there.root.parent / "secret").write_text("a secret")
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", path, headers={MAC_HEADER: mac(SECRET, path)})
    assert connection.getresponse().status == 404
    connection.close()


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("bytes=0-0", (206, 1)),
        ("bytes=4096-8191", (206, 4096)),
        ("bytes=8191-8192", (416, None)),
        ("bytes=5-4", (416, None)),
        ("bytes=-5", (416, None)),
        ("bytes=0-1,3-4", (416, None)),
        (None, (200, 8192)),
    ],
)
def test_a_range_is_served_whole_or_refused(
    there: CheckpointStore, url: str, wanted: str | None, expected: tuple[int, int | None]
) -> None:
    path = f"/checkpoints/{publish(there)}/partition_00000.bin"
    headers = {MAC_HEADER: mac(SECRET, path), **({} if wanted is None else {"Range": wanted})}
    answer = httpx2.get(url + path, headers=headers)
    assert answer.status_code == expected[0]
    if expected[1] is not None:
        assert len(answer.content) == expected[1]


def test_a_peer_that_does_not_have_it_says_so(store: CheckpointStore, url: str) -> None:
    with pytest.raises(ModelUnusableError, match="404"):
        fetch(store, "0" * 64, url)


def test_where_there_is_no_room_nothing_is_fetched(store: CheckpointStore, there: CheckpointStore, url: str) -> None:
    digest = publish(there, num_chunks=2)
    watch = Watch(limit_bytes=1000)
    with pytest.raises(ModelUnusableError, match="no room"):
        fetch(store, digest, url, watch=watch)
    assert (store.aside(), watch.asked[0] > CHUNK_BYTES) == ([], True)
