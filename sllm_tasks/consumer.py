"""How our Celery processes read queues: what is no message of ours is counted and dropped, and nobody dies of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.worker.consumer import Consumer

from sllm_tasks.transport import LeanChannel


def count_rejections(app: Celery, count: Callable[[], None]) -> None:
    """Make this process's workers drop and count undecodable, unknown and malformed messages."""
    LeanChannel.on_junk = staticmethod(count)

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
