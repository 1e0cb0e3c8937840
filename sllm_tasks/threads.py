"""Long-lived threads: started and stopped with their owner, and never silently dead."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import NoReturn

logger = logging.getLogger(__name__)

#: Exit status of a process whose thread died, or that cannot go on; the supervisor starts it again.
EX_THREAD_DIED = 70


class ServiceThread:
    """Runs `body(stopping)` until it returns; a body that raises takes the process down, never half of it."""

    def __init__(self, name: str, body: Callable[[threading.Event], None]) -> None:
        self.stopping = threading.Event()
        self._body = body
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ask the body to return and wait for it; idempotent."""
        self.stopping.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._body(self.stopping)
        except BaseException:  # noqa: BLE001 - logged, and the process ends
            end_process(f"thread {self._thread.name} died")


def end_process(why: str) -> NoReturn:
    """End this process at once, for what was just raised; the supervisor starts it again."""
    logger.critical("%s, so this process ends", why, exc_info=True)
    logging.shutdown()
    os._exit(EX_THREAD_DIED)
