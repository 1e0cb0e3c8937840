"""How our Celery processes read queues: what is no message of ours is counted and dropped, and nobody dies of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker.consumer import Consumer
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Channel, Transport

logger = logging.getLogger(__name__)

#: What kombu raises for an item that is not the JSON object it expects.
_JUNK_ERRORS = (ValueError, KeyError, TypeError, AttributeError)


class TolerantChannel(Channel):
    """A Redis channel that survives an item which is not even JSON; kombu's own lets that end the process."""

    on_junk: Callable[[], None] = staticmethod(lambda: None)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]  # kombu has no types
        except _JUNK_ERRORS as error:
            logger.warning("junk on a queue dropped: %s", type(error).__name__)
            self.on_junk()
            return None


class TolerantTransport(Transport):
    """The Redis transport with that channel."""

    Channel = TolerantChannel


def count_rejections(app: Celery, count: Callable[[], None]) -> None:
    """Make this process's workers drop and count undecodable, unknown and malformed messages."""
    TolerantChannel.on_junk = staticmethod(count)
    # The table by which kombu finds a transport for a URL; a URL that names a socket offers no other way.
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{TolerantTransport.__module__}:{TolerantTransport.__qualname__}"

    class CountingConsumer(Consumer):  # type: ignore[misc]  # celery has no types
        def on_decode_error(self, message: Any, exc: Exception) -> None:
            count()
            super().on_decode_error(message, exc)

        def on_unknown_message(self, body: Any, message: Any) -> None:
            count()
            super().on_unknown_message(body, message)

        def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
            count()
            super().on_unknown_task(body, message, exc)

        def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
            count()
            super().on_invalid_task(body, message, exc)

    app.conf.worker_consumer = CountingConsumer
