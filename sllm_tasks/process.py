"""Run one Celery process of ours: what it owns starts before its first message and stops after its last."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from celery import Celery, bootsteps
from celery.platforms import SecurityWarning

from sllm_tasks import logs
from sllm_tasks.config import Settings, load_settings


def own(app: Celery, *, start: Callable[[], None], stop: Callable[[], None]) -> None:
    """Tie threads and connections to the life of the Celery worker that serves `app`."""

    class OwnedStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
        requires = frozenset({"celery.worker.components:Pool"})

        def start(self, parent: Any) -> None:
            del parent
            start()

        def stop(self, parent: Any) -> None:
            del parent
            stop()

        terminate = stop

    app.steps["worker"].add(OwnedStep)


@cache
def built_from_environment(build: Callable[[Settings], Celery]) -> Celery:
    """Build a process's application, once, for Celery's own command, which brings no settings of ours."""
    settings, _ = load_settings()
    logs.set_up(settings)
    return build(settings)


def run_worker(app: Celery, *, hostname: str, queues: list[str], pool: str, concurrency: int, log_level: str) -> int:
    """Serve queues until a signal ends it; returns the exit status."""
    # Celery warns whoever serves queues as root; what it fears is pickle, which we do not accept.
    warnings.simplefilter("ignore", SecurityWarning)
    worker = app.Worker(
        hostname=hostname,
        queues=queues,
        pool=pool,
        concurrency=concurrency,
        loglevel=log_level,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    worker.start()
    return int(worker.exitcode or 0)
