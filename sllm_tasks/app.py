"""The Celery application of every process; task bodies live with the process that runs them.

Settings and their reasons: acks are late because a claim makes duplicates harmless; there is no result backend because
results live in the ledger; remote control, gossip, mingle and events stay off because they cost more than they tell.
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from sllm_tasks.config import Settings
from sllm_tasks.transport import use_transport

#: After this time an unacknowledged message comes again. Harmless, so it is short; recovery does not depend on it.
_VISIBILITY_TIMEOUT_S = 900


def make_app(settings: Settings, name: str) -> Celery:
    """Build the application of one process."""
    use_transport()
    app = Celery(name, broker=settings.broker_url, set_as_current=False)
    app.conf.update(celery_settings())
    return app


def celery_settings() -> dict[str, Any]:
    """What every process agrees on."""
    return {
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "task_acks_on_failure_or_timeout": True,
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "task_track_started": False,
        "task_serializer": "json",
        "accept_content": ["json"],
        "task_create_missing_queues": True,
        "task_default_queue": "router",
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "worker_disable_rate_limits": True,
        "worker_enable_remote_control": False,
        # True is Celery 6's default and kills a worker with a thread pool at the first broken connection.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_pool_limit": 32,
        "broker_transport_options": {
            "visibility_timeout": _VISIBILITY_TIMEOUT_S,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            # One that is killed while it restores keeps the others from it for so long; five minutes by default.
            "unacked_mutex_expire": 10,
            "health_check_interval": 10,
            "socket_timeout": 10,
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "retry_on_timeout": True,
            "client_name": "sllm-celery",
        },
        "visibility_timeout": _VISIBILITY_TIMEOUT_S,
        "result_backend": None,
    }
