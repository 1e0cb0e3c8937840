"""Copy a checkpoint from the agents of other nodes, in parallel ranges, each checked as it arrives."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loaders.errors import ConversionBusyError
from loaders.format.geometry import CHUNK_BYTES
from loaders.format.validate import open_checkpoint
from loaders.reading.readers import open_reader
from loaders.remote.source import RemoteSource
from loaders.writer.receive import num_needed_bytes, receive
from sllm_tasks.failpoints import failpoint
from sllm_tasks.node_agent.apart.link import Agent, serve
from sllm_tasks.peers.source import open_from_peers

#: Each fetches one chunk at a time: together they fill a link that one TCP connection does not.
NUM_CONNECTIONS = 4
_PAUSE_S = 0.3


class PeerSupplier:
    """A checkpoint that other nodes have, open."""

    def __init__(self, remote: RemoteSource) -> None:
        self._path = remote.path
        # Readers of far files have nothing to close.
        self._readers = [open_reader(file, direct=True) for file in remote.source.plan.files]
        self.manifest = remote.require_manifest()

    def read_file(self, name: str) -> bytes:
        """Return a small file, which came when the checkpoint was opened."""
        return (self._path / name).read_bytes()

    def fill(self, rank: int, chunk: int, buffer: NDArray[np.uint8]) -> None:
        """Fetch a chunk; one that is wrong is fetched again, from another node if there is one."""
        failpoint("fetch.chunk", chunk)
        begin = chunk * CHUNK_BYTES
        num_bytes = min(CHUNK_BYTES, self.manifest.content.partitions[rank].num_bytes - begin)
        self._readers[rank].read([buffer.data], begin, num_bytes)


def run(request: dict[str, Any], agent: Agent) -> dict[str, Any]:
    """Fetch checkpoint `digest` from the agents at `urls` to `destination`."""
    destination = Path(request["destination"])
    with open_from_peers(request["digest"], request["secret"], lambda: request["urls"]) as remote:
        supplier = PeerSupplier(remote)
        agent.ask_room(num_needed_bytes(supplier.manifest))
        started_s, small_bytes = time.monotonic(), remote.fetcher.received_bytes
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
            "fetched_bytes": remote.fetcher.received_bytes - small_bytes,
            "seconds": time.monotonic() - started_s,
        }


if __name__ == "__main__":
    sys.exit(serve(run))
