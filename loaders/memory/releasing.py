"""Give leases back later: when the last view of their memory has died, which garbage collection finds out anywhere."""

from __future__ import annotations

import logging
import queue
import threading
import time
from functools import cache
from typing import Final

from loaders.errors import PoolError
from loaders.memory.lease import ContentLease
from loaders.memory.mapping import Mapping

logger = logging.getLogger(__name__)

#: Between two tries to write to a directory that somebody else is stuck in.
_AGAIN_S: Final = 1.0


def release_with(mapping: Mapping, lease: ContentLease) -> None:
    """Close a lease when nothing looks at a mapping any more."""
    leases = _leases()
    # `put` of a SimpleQueue is made for this: it may interrupt itself, and takes no lock of ours.
    mapping.on_unmap(lambda: leases.put(lease))


def release(lease: ContentLease) -> None:
    """Close a lease, later if that cannot be done now."""
    try:
        lease.close()
    except PoolError as error:
        logger.warning("%r is given back later: %s", lease, error)
        _leases().put(lease)


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
                # If its pool was closed at that moment, which gave everything back, the next try finds that out.
                logger.debug("%r was not given back: %s", lease, error)
                leases.put(lease)
                time.sleep(_AGAIN_S)

    threading.Thread(target=close_all, name="release-leases", daemon=True).start()
    return leases
