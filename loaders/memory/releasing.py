"""Give leases back when the last view of their memory has died, which garbage collection finds out anywhere."""

from __future__ import annotations

import queue
import threading
from functools import cache

from loaders.memory.lease import ContentLease
from loaders.memory.mapping import Mapping


def release_with(mapping: Mapping, lease: ContentLease) -> None:
    """Close a lease when nothing looks at a mapping any more."""
    leases = _leases()
    # `put` of a SimpleQueue is made for this: it may interrupt itself, and takes no lock of ours.
    mapping.on_unmap(lambda: leases.put(lease))


@cache
def _leases() -> queue.SimpleQueue[ContentLease]:
    """Start the one thread that closes leases: closing writes to the pool's directory."""
    leases: queue.SimpleQueue[ContentLease] = queue.SimpleQueue()

    def close_all() -> None:
        while True:
            leases.get().close()

    threading.Thread(target=close_all, name="release-leases", daemon=True).start()
    return leases
