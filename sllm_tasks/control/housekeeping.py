"""Lets go of what the ledger has kept long enough: outputs past their time, old keys, decisions and measurements."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sqlalchemy.orm import Session

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
#: What one transaction purges, files being much larger than rows, and how many follow each other: 2,000 jobs a second.
_ROWS_AT_ONCE: Final = 500
_FILES_AT_ONCE: Final = 10
_MAX_TRANSACTIONS: Final = 120
_PAUSE_S: Final = 0.02


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
        num_purged = self._all_of(lambda session, limit: purge_expired(session, now, limit))
        self._all_of(lambda session, limit: purge_keys(session, now, limit))
        self._all_of(lambda session, limit: purge_decisions(session, now - _KEPT, limit))
        self._all_of(lambda session, limit: purge_loads(session, now - _KEPT, limit))
        self._all_of(lambda session, limit: purge_messages(session, now - _KEPT, limit))
        self._all_of(lambda session, limit: purge_files(session, now, limit), _FILES_AT_ONCE)
        with self._ledger.transaction() as session:
            purge_sessions(session, now)
            purge_failures(session, now)
        if num_purged:
            logger.info("%d outputs were past their time", num_purged)

    def _all_of(self, purge: Callable[[Session, int], int], limit: int = _ROWS_AT_ONCE) -> int:
        """Purge a few at a time until none is left, or much was done; what is left then waits for the next time."""
        num_purged = 0
        for _ in range(_MAX_TRANSACTIONS):
            with self._ledger.transaction() as session:
                num_done = purge(session, limit)
            num_purged += num_done
            if num_done < limit:
                break
            # SQLite gives its lock to whoever asks first: those who wait ask now and then.
            time.sleep(_PAUSE_S)
        return num_purged
