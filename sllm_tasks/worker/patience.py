"""Calls that are asked again until the live state answers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from sllm_tasks.errors import UnavailableError

logger = logging.getLogger(__name__)

_RETRY_S = 0.2

T = TypeVar("T")


def until_reachable(call: Callable[[], T], what: str) -> T:
    """Ask until there is an answer, for as long as that takes; a call may come through although its answer is lost.

    While the live state is away no lease runs out, and a job that is lost meanwhile is refused by its fence.
    """
    while True:
        try:
            return call()
        except UnavailableError as error:
            logger.warning("%s waits: %s", what, error)
            time.sleep(_RETRY_S)
