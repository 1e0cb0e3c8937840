"""How our processes speak to the broker: kombu's Redis transport, with three things mended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, QoS, Transport

logger = logging.getLogger(__name__)

#: What kombu raises for an item that is not the JSON object it expects.
_JUNK_ERRORS = (ValueError, KeyError, TypeError, AttributeError)


class SettlingQoS(QoS):
    """What a channel has delivered; what is settled here is settled, although the server could not be told.

    Kombu's own goes on counting such a message, so that a process that takes one at a time never takes another. The
    message comes again after its time, like every message may.
    """

    def ack(self, delivery_tag: str) -> None:
        """Settle a message that was taken; one of a queue without acknowledgements is settled already."""
        if delivery_tag not in self._delivered:
            return
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]  # kombu has no types
        finally:
            self._quick_ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Settle a message that was not; one of a queue without acknowledgements is settled already."""
        if delivery_tag not in self._delivered:
            return
        try:
            super().reject(delivery_tag, requeue=requeue)  # type: ignore[no-untyped-call]
        finally:
            self._quick_ack(delivery_tag)


class LeanChannel(Channel):
    """A Redis channel that survives an item which is not even JSON, and keeps its client.

    Kombu's own ends the process, and builds a client for every command: an eighth of a worker's CPU per job.
    """

    QoS = SettlingQoS
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
