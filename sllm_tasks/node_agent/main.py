"""`sllm node`: the process that keeps a node's checkpoints."""

from __future__ import annotations

from sllm_tasks import logs
from sllm_tasks.config import Settings
from sllm_tasks.dispatch import node_queue
from sllm_tasks.node_agent.app import build_app
from sllm_tasks.process import run_worker


def run(settings: Settings) -> int:
    """Serve the node's queue until a signal ends it."""
    logs.set_up(settings)
    return run_worker(
        build_app(settings),
        hostname=f"node@{settings.node}",
        queues=[node_queue(settings.node)],
        pool="threads",
        concurrency=4,
        log_level=settings.log_level,
    )
