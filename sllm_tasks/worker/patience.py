"""Calls that are asked again until the live state answers, or until the worker has waited long enough to stop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from sllm_tasks.errors import UnavailableError

logger = logging.getLogger(__name__)

_RETRY_S = 0.2

T = TypeVar("T")


class Patience:
    """Patience of one worker with the live state; it has no end before `lose`."""

    def __init__(self) -> None:
        self._lost = threading.Event()

    def lose(self) -> None:
        """The worker stops: from now on a call is asked once."""
        self._lost.set()

    def until_reachable(self, call: Callable[[], T], what: str) -> T:
        """Ask until there is an answer, for as long as that takes; a call may come through although its answer is lost.

        While the live state is away no lease runs out, and a job that is lost meanwhile is refused by its fence.

        Raises:
            UnavailableError: There is no answer, and the worker stops.

        """
        while True:
            try:
                return call()
            except UnavailableError as error:
                if self._lost.wait(_RETRY_S):
                    raise
                logger.warning("%s waits: %s", what, error)
