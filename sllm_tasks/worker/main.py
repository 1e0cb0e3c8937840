"""`sllm worker`: the process of one gpu."""

from __future__ import annotations

import logging
import sys

from sllm_tasks import logs
from sllm_tasks.cluster import GpuId
from sllm_tasks.config import Settings
from sllm_tasks.dispatch import drop_queue
from sllm_tasks.errors import UnavailableError
from sllm_tasks.process import run_worker

logger = logging.getLogger(__name__)

#: Shorter turns of the interpreter lock keep Celery's hub and the heartbeat alive beside a busy engine thread.
_SWITCH_INTERVAL_S = 0.0005


def run(settings: Settings) -> int:
    """Serve a gpu's queue until a signal ends it."""
    logs.set_up(settings)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    from sllm_tasks.worker.app import build_app  # noqa: PLC0415

    gpu = GpuId(settings.node, settings.gpu)
    app = build_app(settings)
    status = run_worker(
        app,
        hostname=f"worker@{gpu}",
        queues=[gpu.queue],
        pool="threads",
        concurrency=settings.max_jobs_per_gpu + 8,
        log_level=settings.log_level,
    )
    try:
        # Celery has put back what came in while it stopped, and perhaps nobody will ever read it.
        drop_queue(app, gpu)
    except UnavailableError as error:
        logger.warning("messages stay behind: %s", error)
    return status
