"""The node agent's Celery application: `celery -A sllm_tasks.node_agent.app worker -P threads -Q node.<node>`."""

from __future__ import annotations

from celery import Celery

from sllm_tasks.config import Settings
from sllm_tasks.consumer import count_rejections
from sllm_tasks.dispatch import RUN_OPERATION
from sllm_tasks.node_agent.agent import NodeAgent
from sllm_tasks.process import built_from_environment, own
from sllm_tasks.services import Services
from sllm_tasks.tasks import count_rejected, register_task


def build_app(settings: Settings) -> Celery:
    """Wire a node agent."""
    services = Services(settings, f"sllm-node-{settings.node}")
    app, live = services.app, services.live
    agent = NodeAgent(settings, services)
    register_task(app, RUN_OPERATION, agent.run_operation, signer=services.signer, live=live)
    count_rejections(app, lambda: count_rejected(live))
    own(app, start=agent.start, stop=agent.stop)
    return app


def __getattr__(name: str) -> Celery:
    """Build the application when Celery's own command asks for it, not when somebody imports this module."""
    if name in {"app", "celery"}:
        return built_from_environment(build_app)
    raise AttributeError(name)
