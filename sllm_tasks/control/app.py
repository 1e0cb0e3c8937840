"""Control's Celery application: `celery -A sllm_tasks.control.app worker -P threads -Q control`."""

from __future__ import annotations

from celery import Celery

from sllm_tasks.config import Settings
from sllm_tasks.consumer import count_rejections
from sllm_tasks.control.housekeeping import Housekeeping
from sllm_tasks.control.installed import installed_services
from sllm_tasks.control.ledger_writer import LedgerWriter
from sllm_tasks.control.operations import OperationDesk
from sllm_tasks.control.reconciler import Reconciler
from sllm_tasks.control.relocation import Relocation
from sllm_tasks.control.sweeper import Sweeper
from sllm_tasks.control.webhook_sender import NUM_SENDERS, WebhookSender
from sllm_tasks.forecasts import Forecasts
from sllm_tasks.ledger.database import Database
from sllm_tasks.mover import Mover
from sllm_tasks.networks import parse_networks
from sllm_tasks.process import built_from_environment, own
from sllm_tasks.secrets import cluster_secret
from sllm_tasks.services import Services
from sllm_tasks.tasks import count_rejected
from sllm_tasks.threads import ServiceThread


def build_app(settings: Settings) -> Celery:
    """Wire control: its threads do its work, and one for each installed service; nothing is sent to its queue yet."""
    services = Services(settings, "sllm-control")
    app, live, dispatcher = services.app, services.live, services.dispatcher
    ledger = Database(settings.ledger_url)
    desk = OperationDesk(ledger, live, dispatcher)
    sender = WebhookSender(ledger, cluster_secret(settings), parse_networks(settings.webhook_networks))
    reconciler = Reconciler(
        ledger,
        live,
        desk,
        ssd_copies=settings.ssd_copies,
        follows_popularity=settings.placement_policy == "popularity",
    )
    threads = (
        ServiceThread("ledger-writer", LedgerWriter(ledger, live, desk.commit).run),
        ServiceThread("sweeper", Sweeper(ledger, live, dispatcher, max_attempts=settings.max_attempts).run),
        ServiceThread("relocation", Relocation(ledger, live, Mover(live, Forecasts(live, ledger))).run),
        ServiceThread("housekeeping", Housekeeping(ledger, live).run),
        ServiceThread("reconciler", reconciler.run),
        *(ServiceThread(f"webhooks-{number}", sender.run) for number in range(NUM_SENDERS)),
        *installed_services(settings, ledger, live, dispatcher),
    )

    def start() -> None:
        for thread in threads:
            thread.start()

    def stop() -> None:
        for thread in threads:
            thread.stopping.set()
        for thread in threads:
            thread.stop()
        ledger.close()

    count_rejections(app, lambda: count_rejected(live))
    own(app, start=start, stop=stop)
    return app


def __getattr__(name: str) -> Celery:
    """Build the application when Celery's own command asks for it, not when somebody imports this module."""
    if name in {"app", "celery"}:
        return built_from_environment(build_app)
    raise AttributeError(name)
