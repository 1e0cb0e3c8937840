"""Draining the gpus of a node, and taking them back."""

from __future__ import annotations

from sllm_tasks.cluster import GpuState
from sllm_tasks.errors import NotFoundError
from webapp.audited import Caller, audited
from webapp.services import WebServices


def set_node_state(web: WebServices, caller: Caller, node: str, state: GpuState) -> None:
    """Let the gpus of a node take work, or no more; raises NotFoundError."""
    gpus = [gpu.id for gpu in web.live.fleet.gpus() if gpu.id.node == node]
    if not gpus:
        raise NotFoundError(f"there is no node {node!r} with gpus")
    with audited(web.ledger, caller, "node.drain" if state is GpuState.DRAINING else "node.undrain", node):
        for gpu in gpus:
            web.live.fleet.set_gpu_state(gpu, state)
    web.dispatcher.route()
