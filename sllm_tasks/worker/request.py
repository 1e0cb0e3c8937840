"""What Celery may do to a running job: nothing but ask the worker to hand it over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Task
from celery.worker.request import Request


def request_class(hand_over: Callable[[str], None]) -> type[Task]:
    """Make the task base whose requests end cooperatively.

    Celery's thread pool cannot stop a thread: its own `terminate` and `cancel` raise, which ends the whole worker at a
    cold shutdown or a lost connection. Here both give the job back, and another worker goes on from its tokens.
    """

    class EngineRequest(Request):  # type: ignore[misc]  # celery has no types
        def terminate(self, pool: Any, signal: Any = None) -> None:
            del pool, signal
            hand_over(self.kwargs.get("subject", ""))

        def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:
            del pool, signal, emit_retry
            hand_over(self.kwargs.get("subject", ""))

    class EngineTask(Task):  # type: ignore[misc]  # celery has no types
        abstract = True

        # Celery asks for the class by this attribute.
        Request = EngineRequest

    return EngineTask
