"""The router's Celery application: `celery -A sllm_tasks.router.app worker -P solo -Q router`."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

from celery import Celery, signals
from kombu.entity import Exchange, Queue

from sllm_tasks.config import Settings
from sllm_tasks.consumer import count_rejections
from sllm_tasks.dispatch import ROUTE, ROUTER_QUEUE
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.database import Database
from sllm_tasks.process import built_from_environment, own
from sllm_tasks.router.leadership import Leadership
from sllm_tasks.router.misfits import Misfits
from sllm_tasks.router.routing import LIVE_POLICY, Router, route
from sllm_tasks.router.rules import QueueRules
from sllm_tasks.router.snapshot import Snapshot
from sllm_tasks.router.waiting import WaitingJobs
from sllm_tasks.services import Services
from sllm_tasks.tasks import count_rejected, register_task

logger = logging.getLogger(__name__)


def build_app(settings: Settings) -> Celery:
    """Wire a router; it reads its queue only once it leads."""
    services = Services(settings, "sllm-router")
    app, live = services.app, services.live
    # A trigger that is lost with its reader is followed by another within a second: to have it acknowledged would only
    # hold up the job that waits for this one.
    exchange = Exchange(ROUTER_QUEUE)  # type: ignore[no-untyped-call]  # kombu has no types
    queue = Queue(ROUTER_QUEUE, exchange, routing_key=ROUTER_QUEUE, no_ack=True)  # type: ignore[no-untyped-call]
    app.conf.task_queues = [queue]
    ledger = Database(settings.ledger_url)

    def wake() -> None:
        try:
            services.dispatcher.route()
        except UnavailableError as error:
            logger.warning("no trigger: %s", error)

    leadership = Leadership(live, f"{settings.node}.{os.getpid()}", wake)
    rules = QueueRules(live, ledger, max_running_jobs=settings.max_running_jobs)
    router = Router(
        live,
        services.dispatcher,
        Snapshot(live, ledger),
        WaitingJobs(live, rules, max_attempts=settings.max_attempts),
        Misfits(live, ledger),
        lambda: leadership.epoch,
        policy=replace(LIVE_POLICY, waiting_worth=settings.waiting_worth),
    )
    register_task(app, ROUTE, lambda _: route(router), signer=services.signer, live=live)
    count_rejections(app, lambda: count_rejected(live))

    def wait_for_lease(**_: Any) -> None:
        leadership.acquire()

    # Before the worker has connected to its queue; a standby waits here, and a signal ends it at once.
    signals.worker_init.connect(wait_for_lease, weak=False)
    own(app, start=leadership.start, stop=leadership.stop)
    return app


def __getattr__(name: str) -> Celery:
    """Build the application when Celery's own command asks for it, not when somebody imports this module."""
    if name in {"app", "celery"}:
        return built_from_environment(build_app)
    raise AttributeError(name)
