"""Give leases back when the last view of their memory has died, which garbage collection finds out anywhere."""

from __future__ import annotations

import logging
import queue
import threading
from functools import cache

from loaders.errors import PoolError
from loaders.memory.lease import ContentLease
from loaders.memory.mapping import Mapping

logger = logging.getLogger(__name__)


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
            lease = leases.get()
            try:
                lease.close()
            except PoolError as error:
                # Its pool was closed at that moment, which gave everything back.
                logger.debug("%r was not given back: %s", lease, error)

    threading.Thread(target=close_all, name="release-leases", daemon=True).start()
    return leases
