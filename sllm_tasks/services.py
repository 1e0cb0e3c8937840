"""What most processes open: live state, broker and, where they may, the ledger. Each owns its own."""

from __future__ import annotations

from celery import Celery

from sllm_tasks.app import make_app
from sllm_tasks.config import Settings
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.livestate import LiveState
from sllm_tasks.secrets import cluster_secret
from sllm_tasks.signing import Signer


class Services:
    """Connections of one process; `close` gives them back."""

    def __init__(self, settings: Settings, name: str, *, live_timeout_s: float = 5.0) -> None:
        self.settings = settings
        self.live = LiveState(settings.live_url, timeout_s=live_timeout_s)
        self.signer = Signer(cluster_secret(settings))
        self.app: Celery = make_app(settings, name)
        self.dispatcher = Dispatcher(self.app, self.signer, self.live)

    def close(self) -> None:
        """Close what this process opened; idempotent."""
        self.app.close()
        self.live.close()
