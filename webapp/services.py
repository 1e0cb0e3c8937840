"""What the views work with, opened once per web process."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Final, cast

from flask import current_app

from sllm_tasks.admission import Admission
from sllm_tasks.app import make_app
from sllm_tasks.config import Settings
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.forecasts import Forecasts
from sllm_tasks.ledger.database import Database
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.rates import RateKind
from sllm_tasks.mover import Mover
from sllm_tasks.quotas import QueueQuotas, RulesMemory
from sllm_tasks.router.explaining import Explainer
from sllm_tasks.secrets import cluster_secret
from sllm_tasks.signing import Signer
from webapp.catalog import Catalog
from webapp.job_maker import JobMaker
from webapp.keyring import Keyring
from webapp.metrics import WebMetrics
from webapp.prompts import PromptBuilder
from webapp.rate_limits import RateLimits
from webapp.wait_slots import WaitSlots

#: A request asks the live state twice at most, and is to be answered within 2 s even if that is away.
LIVE_TIMEOUT_S: Final = 0.8
#: Less than the 2 s within which a client hears that the ledger is away.
_LEDGER_TIMEOUT_S: Final = 1.5
#: Where the application keeps them.
EXTENSION: Final = "sllm"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebServices:
    """Connections and memories of one web process; `close` gives the connections back."""

    settings: Settings
    ledger: Database
    live: LiveState
    dispatcher: Dispatcher
    admission: Admission
    catalog: Catalog
    prompts: PromptBuilder
    job_maker: JobMaker
    keyring: Keyring
    rate_limits: RateLimits
    wait_slots: WaitSlots
    explainer: Explainer
    metrics: WebMetrics
    mover: Mover
    #: Set when the process is told to stop, so that requests that wait end soon.
    stopping: threading.Event = field(default_factory=threading.Event)

    def close(self) -> None:
        """Close what `open_services` opened; idempotent."""
        self.live.close()
        self.ledger.close()


def open_services(settings: Settings) -> WebServices:
    """Open everything; nothing is contacted yet, so that a web process starts while others are away."""
    ledger = Database(settings.ledger_url, timeout_s=_LEDGER_TIMEOUT_S, pool_size=16)
    live = LiveState(settings.live_url, timeout_s=LIVE_TIMEOUT_S, max_connections=settings.web_threads + 32)
    app = make_app(settings, "sllm-web")
    # A request may wait for the broker, but not for as long as a worker may.
    app.conf.broker_transport_options = {
        **app.conf.broker_transport_options,
        "socket_timeout": LIVE_TIMEOUT_S,
        "socket_connect_timeout": LIVE_TIMEOUT_S,
    }
    dispatcher = Dispatcher(app, Signer(cluster_secret(settings)), live)
    rules = RulesMemory(ledger)
    quotas = QueueQuotas(rules, settings.max_queued_jobs)
    catalog, prompts = Catalog(ledger), PromptBuilder(ledger)
    wait_slots = WaitSlots(settings.web_threads)
    return WebServices(
        settings=settings,
        ledger=ledger,
        live=live,
        dispatcher=dispatcher,
        admission=Admission(ledger, live, dispatcher, quotas, fast_path=settings.fast_path),
        catalog=catalog,
        prompts=prompts,
        job_maker=JobMaker(catalog, prompts, live, settings.max_attempts, settings.result_ttl_s),
        keyring=Keyring(ledger),
        rate_limits=RateLimits(
            rules,
            live,
            {RateKind.REQUESTS: settings.max_requests_per_min, RateKind.TOKENS: settings.max_tokens_per_min},
        ),
        wait_slots=wait_slots,
        explainer=Explainer(live, ledger),
        metrics=WebMetrics(ledger, live, wait_slots),
        mover=Mover(live, Forecasts(live, ledger)),
    )


def services() -> WebServices:
    """The services of the application that answers this request."""
    return cast("WebServices", current_app.extensions[EXTENSION])
