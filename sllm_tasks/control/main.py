"""`sllm control`: the process that commits and puts right."""

from __future__ import annotations

from sllm_tasks import logs
from sllm_tasks.config import Settings
from sllm_tasks.control.app import build_app
from sllm_tasks.dispatch import CONTROL_QUEUE
from sllm_tasks.process import run_worker


def run(settings: Settings) -> int:
    """Work until a signal ends it."""
    logs.set_up(settings)
    return run_worker(
        build_app(settings),
        hostname=f"control@{settings.node}",
        queues=[CONTROL_QUEUE],
        pool="threads",
        concurrency=4,
        log_level=settings.log_level,
    )
