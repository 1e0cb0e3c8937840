"""Open a checkpoint that other nodes have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from loaders.errors import CheckpointCorruptError
from loaders.remote.source import RemoteSource, open_through
from sllm_tasks.peers.transport import PeerTransport


@contextmanager
def open_from_peers(digest: str, secret: str, find_urls: Callable[[], Sequence[str]]) -> Iterator[RemoteSource]:
    """Fetch everything but the weights from the agents at some addresses; raises LoaderError, saying what is wrong."""
    where = f"checkpoint {digest}"
    with open_through(PeerTransport(digest, secret, find_urls), where) as remote:
        if remote.require_manifest().digest != digest:
            raise CheckpointCorruptError(f"{where}: other nodes have something else under this name")
        yield remote
