"""The worker's Celery application: `celery -A sllm_tasks.worker.app worker -P threads -Q gpu.<node>.<i> -c 256`."""

from __future__ import annotations

import torch
from celery import Celery

from sllm_tasks.config import Settings
from sllm_tasks.consumer import count_rejections
from sllm_tasks.dispatch import LOAD_REPLICA, RUN_JOB, UNLOAD_REPLICA
from sllm_tasks.process import built_from_environment, own
from sllm_tasks.services import Services
from sllm_tasks.tasks import count_rejected, register_task
from sllm_tasks.worker.request import request_class
from sllm_tasks.worker.worker import GpuWorker


def build_app(settings: Settings) -> Celery:
    """Wire a worker."""
    if settings.torch_threads is not None:
        # Not by OMP_NUM_THREADS: a worker that was forked has its torch imported already.
        torch.set_num_threads(settings.torch_threads)
    services = Services(settings, f"sllm-worker-{settings.node}.{settings.gpu}")
    app, live, signer = services.app, services.live, services.signer
    worker = GpuWorker(settings, services)
    register_task(app, RUN_JOB, worker.run_job, signer=signer, live=live, base=request_class(worker.hand_over))
    register_task(app, LOAD_REPLICA, worker.load, signer=signer, live=live)
    register_task(app, UNLOAD_REPLICA, worker.unload, signer=signer, live=live)
    count_rejections(app, lambda: count_rejected(live))
    own(app, start=worker.start, stop=worker.stop)
    return app


def __getattr__(name: str) -> Celery:
    """Build the application when Celery's own command asks for it, not when somebody imports this module."""
    if name in {"app", "celery"}:
        return built_from_environment(build_app)
    raise AttributeError(name)
