"""Telling the live state that a queue was paused or resumed, as soon as the ledger knows."""

from __future__ import annotations

import logging

from sllm_tasks.errors import UnavailableError
from webapp.services import WebServices

logger = logging.getLogger(__name__)


def move_gate(web: WebServices, name: str, *, paused: bool) -> None:
    """Close or open the gate of a queue; where that fails, the router does it within a second."""
    try:
        web.live.queues.set_paused(name, paused=paused)
        web.dispatcher.route()
    except UnavailableError as error:
        logger.warning("the router will see within a second that queue %s has changed: %s", name, error)
