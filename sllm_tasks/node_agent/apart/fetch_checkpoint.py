"""Copy a checkpoint from the agents of other nodes, in parallel ranges, each checked as it arrives."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cuda_kernels.digest import chunk_digest
from loaders.errors import CheckpointCorruptError, ConversionBusyError, LoaderError
from loaders.format.geometry import CHUNK_BYTES, MANIFEST, MAX_MANIFEST_BYTES, partition_name
from loaders.format.manifest import Manifest
from loaders.format.validate import open_checkpoint
from loaders.writer.receive import num_needed_bytes, receive
from sllm_tasks.failpoints import failpoint
from sllm_tasks.node_agent.apart.link import Agent, serve
from sllm_tasks.node_agent.apart.peer_client import Peer, PeerConnections, PeerError
from sllm_tasks.node_agent.peer_paths import PeerPath

_Answer = TypeVar("_Answer")

#: Each fetches one chunk at a time: together they fill a link that one TCP connection does not.
NUM_CONNECTIONS = 4
#: How often every peer is asked for the same chunk before the fetch is given up.
_MAX_ROUNDS = 3
_PAUSE_S = 0.3


class PeerSupplier:
    """A checkpoint that other nodes have; chunks are asked of all of them in turn."""

    def __init__(self, digest: str, connections: PeerConnections) -> None:
        """Read the manifest from the first peer that has a sound one.

        Raises:
            PeerError: No peer answers.
            CheckpointCorruptError: What they answer is not the manifest of this digest.

        """
        self._digest = digest
        self._connections = connections
        # Peers that did not answer lately, asked last. Written by many threads: the worst that can come of it is one
        # question more to a dead peer.
        self._silent: set[Peer] = set()
        #: Bytes of chunks that came over the network, those included that were wrong. Written by many threads: a few
        #: bytes of it may get lost, for it is only told to people.
        self.fetched_bytes = 0
        self._manifest = self._ask(self._read_manifest, first=0)

    @property
    def manifest(self) -> Manifest:
        """What belongs to the checkpoint."""
        return self._manifest

    def read_file(self, name: str) -> bytes:
        """Fetch a small file."""
        record = self._manifest.content.files[name]
        path = PeerPath(self._digest, name)

        def fetch(peer: Peer) -> bytes:
            data = self._connections.of(peer).read(path, max_bytes=record.num_bytes)
            if hashlib.sha256(data).hexdigest() != record.sha256:
                raise CheckpointCorruptError(f"{peer.url}{path}: has a wrong digest")
            return data

        return self._ask(fetch, first=0)

    def fill(self, rank: int, chunk: int, buffer: NDArray[np.uint8]) -> None:
        """Fetch a chunk; one that is wrong is fetched again, from another peer if there is one."""
        record = self._manifest.content.partitions[rank]
        begin = chunk * CHUNK_BYTES
        data = buffer[: min(CHUNK_BYTES, record.num_bytes - begin)]
        path = PeerPath(self._digest, partition_name(rank))

        def fetch(peer: Peer) -> None:
            failpoint("fetch.chunk", chunk)
            self._connections.of(peer).read_into(path, data.data, begin)
            self.fetched_bytes += len(data)
            if chunk_digest(data) != record.chunk_digests[chunk]:
                raise CheckpointCorruptError(f"{peer.url}{path}: chunk {chunk} has a wrong digest")

        self._ask(fetch, first=chunk)

    def _read_manifest(self, peer: Peer) -> Manifest:
        path = PeerPath(self._digest, MANIFEST)
        data = self._connections.of(peer).read(path, max_bytes=MAX_MANIFEST_BYTES)
        manifest = Manifest.decode(data, where=f"{peer.url}{path}")
        if manifest.digest != self._digest:
            raise CheckpointCorruptError(f"{peer.url}{path}: is the manifest of {manifest.digest}")
        return manifest

    def _ask(self, question: Callable[[Peer], _Answer], *, first: int) -> _Answer:
        """Ask one peer after the other, beginning with the `first` one, until one has the right answer."""
        reason: PeerError | LoaderError | None = None
        for round_ in range(_MAX_ROUNDS):
            if round_:
                time.sleep(_PAUSE_S)
            for peer in self._in_turn(first):
                try:
                    answer = question(peer)
                except PeerError as error:
                    self._silent.add(peer)
                    reason = reason or error
                except LoaderError as error:
                    # What a peer has wrong says more than that another one is away.
                    reason = error
                else:
                    self._silent.discard(peer)
                    return answer
        raise reason or PeerError(f"no peer was named that has checkpoint {self._digest}")

    def _in_turn(self, first: int) -> list[Peer]:
        peers = self._connections.peers
        turns = [peers[(first + turn) % len(peers)] for turn in range(len(peers))]
        return sorted(turns, key=self._silent.__contains__)


def run(request: dict[str, Any], agent: Agent) -> dict[str, Any]:
    """Fetch checkpoint `digest` from the agents at `urls` to `destination`."""
    destination = Path(request["destination"])
    peers = tuple(Peer(url, request["secret"]) for url in request["urls"])
    with closing(PeerConnections(peers)) as connections:
        supplier = PeerSupplier(request["digest"], connections)
        agent.ask_room(num_needed_bytes(supplier.manifest))
        started_s = time.monotonic()
        while True:
            try:
                manifest = receive(supplier, destination, num_threads=NUM_CONNECTIONS, on_progress=agent.progress)
                break
            except ConversionBusyError:
                # A process of an agent that was killed a moment ago.
                time.sleep(_PAUSE_S)
        # The index as well is what this version can read.
        open_checkpoint(destination).close()
    return {
        "num_bytes": manifest.num_bytes,
        "fetched_bytes": supplier.fetched_bytes,
        "seconds": time.monotonic() - started_s,
    }


if __name__ == "__main__":
    sys.exit(serve(run))
