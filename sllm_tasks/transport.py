"""How our processes speak to the broker: kombu's Redis transport, with two things mended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport

logger = logging.getLogger(__name__)

#: What kombu raises for an item that is not the JSON object it expects.
_JUNK_ERRORS = (ValueError, KeyError, TypeError, AttributeError)


class LeanChannel(Channel):
    """A Redis channel that survives an item which is not even JSON, and keeps its client.

    Kombu's own ends the process, and builds a client for every command: an eighth of a worker's CPU per job.
    """

    on_junk: Callable[[], None] = staticmethod(lambda: None)
    _kept: Any = None

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]  # kombu has no types
        except _JUNK_ERRORS as error:
            logger.warning("junk on a queue dropped: %s", type(error).__name__)
            self.on_junk()
            return None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)  # type: ignore[no-untyped-call]
        # It holds no connection, only the pool of them, which is another one after a failure.
        if self._kept is None or self._kept.connection_pool is not self.pool:
            self._kept = super()._create_client()  # type: ignore[no-untyped-call]
        return self._kept


class LeanTransport(Transport):
    """The Redis transport with that channel."""

    Channel = LeanChannel


def use_transport() -> None:
    """Have kombu speak to Redis by it, in this process."""
    # The table by which kombu finds a transport for a URL; a URL that names a socket offers no other way.
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{LeanTransport.__module__}:{LeanTransport.__qualname__}"
