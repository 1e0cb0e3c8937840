"""Lets go of what the ledger has kept long enough: outputs past their time, old keys, decisions and measurements."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.decisions import purge_decisions
from sllm_tasks.ledger.encoding import from_ms
from sllm_tasks.ledger.files import purge_files
from sllm_tasks.ledger.idempotency import purge_keys
from sllm_tasks.ledger.job_lists import purge_expired
from sllm_tasks.ledger.loads import purge_loads
from sllm_tasks.ledger.login_limits import purge_failures
from sllm_tasks.ledger.outbox import purge_messages
from sllm_tasks.ledger.user_sessions import purge_sessions
from sllm_tasks.livestate import LiveState

logger = logging.getLogger(__name__)

_PERIOD_S = 30.0
#: Decisions and measured loads explain the recent past and teach the estimators; older ones do neither.
_KEPT = timedelta(days=14)


class Housekeeping:
    """Runs twice a minute; every step is a short transaction."""

    def __init__(self, ledger: Database, live: LiveState) -> None:
        self._ledger = ledger
        self._live = live

    def run(self, stopping: threading.Event) -> None:
        """Keep house until told to stop."""
        while not stopping.wait(_PERIOD_S):
            try:
                self.tidy()
            except UnavailableError as error:
                logger.warning("not tidied: %s", error)

    def tidy(self) -> None:
        """Purge what is due; raises UnavailableError."""
        now = from_ms(self._live.now_ms())
        with self._ledger.transaction() as session:
            num_purged = purge_expired(session, now)
        with self._ledger.transaction() as session:
            purge_keys(session, now)
            purge_decisions(session, now - _KEPT)
            purge_loads(session, now - _KEPT)
            purge_messages(session, now - _KEPT)
        with self._ledger.transaction() as session:
            purge_files(session, now)
            purge_sessions(session, now)
            purge_failures(session, now)
        if num_purged:
            logger.info("%d outputs were past their time", num_purged)
