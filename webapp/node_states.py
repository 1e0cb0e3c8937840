"""Draining gpus, one or all of a node's, and taking them back; it lasts until then, whatever restarts."""

from __future__ import annotations

import logging

from sllm_tasks.drains import follow_drains
from sllm_tasks.errors import ConflictError, NotFoundError, UnavailableError
from sllm_tasks.ledger.drains import drain, drained, undrain
from webapp.audited import Caller, audited
from webapp.services import WebServices

logger = logging.getLogger(__name__)


def drain_gpus(web: WebServices, caller: Caller, node: str, index: int | None = None) -> None:
    """Let one gpu of a node take no more work, or all of them, those that come later included.

    Raises NotFoundError.
    """
    name = node if index is None else f"{node}.{index}"
    if not any(name in {gpu.id.node, str(gpu.id)} for gpu in web.live.fleet.gpus()):
        raise NotFoundError(f"there is no {_what(node, index)}")
    with audited(web.ledger, caller, "node.drain", name) as change:
        change.is_done = not drain(change.session, name, by=caller.id, now=change.now)
    _tell(web)


def undrain_gpus(web: WebServices, caller: Caller, node: str, index: int | None = None) -> None:
    """Let one gpu of a node take work again, or all of them.

    Raises NotFoundError, or ConflictError for a gpu of a node that is drained as a whole.
    """
    name = node if index is None else f"{node}.{index}"
    with audited(web.ledger, caller, "node.undrain", name) as change:
        names = drained(change.session)
        if index is not None and node in names:
            raise ConflictError(f"node {node} is drained as a whole; take the node back")
        taken = {each for each in names if each == name or (index is None and each.startswith(f"{node}."))}
        if not taken and not any(name in {gpu.id.node, str(gpu.id)} for gpu in web.live.fleet.gpus()):
            raise NotFoundError(f"there is no {_what(node, index)}")
        change.is_done = not undrain(change.session, taken)
    _tell(web)


def _what(node: str, index: int | None) -> str:
    return f"node {node!r} with gpus" if index is None else f"gpu {index} of node {node!r}"


def _tell(web: WebServices) -> None:
    try:
        follow_drains(web.ledger, web.live)
        web.dispatcher.route()
    except UnavailableError as error:
        logger.warning("control will tell within a second what is drained: %s", error)
