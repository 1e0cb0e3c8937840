"""`sllm router`: the process that decides; several may run, one leads."""

from __future__ import annotations

from sllm_tasks import logs
from sllm_tasks.config import Settings
from sllm_tasks.dispatch import ROUTER_QUEUE
from sllm_tasks.process import run_worker
from sllm_tasks.router.app import build_app


def run(settings: Settings) -> int:
    """Wait for the lease, then serve the router's queue until a signal ends it."""
    logs.set_up(settings)
    return run_worker(
        build_app(settings),
        hostname=f"router@{settings.node}",
        queues=[ROUTER_QUEUE],
        pool="solo",
        concurrency=1,
        log_level=settings.log_level,
    )
