"""Serve the application with gunicorn: one worker process with many threads, because streams hold a thread each."""

from __future__ import annotations

import gc
import logging
from typing import Any, Final

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.workers.gthread import ThreadWorker

from sllm_tasks.config import Settings
from sllm_tasks.logs import set_up
from sllm_tasks.zygote import die_with_parent
from webapp.app import create_app
from webapp.services import EXTENSION, WebServices, open_services
from webapp.stalled import STALLED_S, limit_stalls

logger = logging.getLogger(__name__)

#: Requests under way get so long to end after the process was told to stop.
_GRACE_S: Final = 10
#: A worker process whose main thread is stuck for so long is replaced; requests run in other threads.
_STUCK_S: Final = 60
_KEEP_ALIVE_S: Final = 15


def run(settings: Settings) -> int:
    """Serve until a signal ends it; returns the exit status."""
    set_up(settings)
    _Server(settings).run()
    return 0


class _Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """Tells requests that wait for news that the process stops."""

    wsgi: Flask

    def handle_exit(self, sig: int, frame: object) -> None:
        services: WebServices = self.wsgi.extensions[EXTENSION]
        services.stopping.set()
        super().handle_exit(sig, frame)


class _Server(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    """Reads no configuration of gunicorn's own: everything comes from our settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": self._settings.web_address,
            "workers": 1,
            "worker_class": _Worker,
            "threads": self._settings.web_threads,
            "worker_connections": self._settings.web_threads * 4,
            "keepalive": _KEEP_ALIVE_S,
            "timeout": _STUCK_S,
            "graceful_timeout": _GRACE_S,
            # What gunicorn says of itself matters when something is wrong; requests are logged by us.
            "loglevel": "warning",
            "when_ready": _announce,
            "post_fork": _end_with_arbiter,
            "control_socket_disable": True,
            # `TrustedProxies` sees to what proxies say, under any server.
            "forwarded_allow_ips": "",
        }
        if self._settings.tls_certificate is not None:
            options |= {"certfile": str(self._settings.tls_certificate), "keyfile": str(self._settings.tls_key)}
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        # Called in the worker process, so no connection is shared between processes.
        app = create_app(open_services(self._settings))
        # What is there now stays: the collector need not look at it again while requests wait.
        gc.collect()
        gc.freeze()
        return app


def _end_with_arbiter(arbiter: Arbiter, worker: ThreadWorker) -> None:
    """Have the worker told to stop when its arbiter dies; finding that out itself, it ends no stream first."""
    del arbiter, worker
    die_with_parent()


def _announce(arbiter: Arbiter) -> None:
    for listener in arbiter.LISTENERS:
        limit_stalls(listener.sock, STALLED_S)
        logger.info("web listens at %s", listener)
