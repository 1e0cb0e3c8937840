"""Estimates that follow the ledger: folded from its records at the start, kept up to date afterwards."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta

from sllm_tasks.errors import UnavailableError
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import from_ms
from sllm_tasks.ledger.facts import TimedFact, arrival_facts, job_facts, load_facts, migration_facts, start_facts

logger = logging.getLogger(__name__)

#: The ledger is looked at this often.
_PERIOD_S = 2.0
#: How much of the past is told at the start: the latest facts of a kind, of all models and nodes together, so that a
#: model in steady use may leave little of the others'. Jobs that came are the most, and told by model: of the latest so
#: many of each.
_PAST, _MAX_FACTS = timedelta(days=7), 2_000
_MAX_ARRIVALS, _MAX_ARRIVALS_OF_EACH = 20_000, 500
#: A row may be committed so much later than what it tells happened.
_LATE = timedelta(seconds=5)


class Learning:
    """Holds no state that the ledger does not bring back; used by one thread."""

    def __init__(self, ledger: Database) -> None:
        self._ledger = ledger
        self._estimates = LearnedEstimates()
        self._read_s = float("-inf")
        self._since: datetime | None = None
        # Rows that may be read once more, with the time of each.
        self._told: dict[str, datetime] = {}

    @property
    def estimates(self) -> LearnedEstimates:
        """What was learned so far."""
        return self._estimates

    def follow(self, now_ms: int) -> None:
        """Learn what is new, unless that was done a moment ago; nothing while the ledger is away."""
        if time.monotonic() - self._read_s < _PERIOD_S:
            return
        try:
            self._read(from_ms(now_ms))
        except UnavailableError as error:
            logger.warning("estimates are as they were: %s", error)
        self._read_s = time.monotonic()

    def _read(self, now: datetime) -> None:
        since = now - _PAST if self._since is None else self._since - _LATE
        with self._ledger.reading() as session:
            found = load_facts(session, since=since, limit=_MAX_FACTS)
            found += job_facts(session, since=since, limit=_MAX_FACTS)
            found += migration_facts(session, since=since, limit=_MAX_FACTS)
            found += start_facts(session, since=since, limit=_MAX_FACTS)
            found += arrival_facts(session, since=since, limit=_MAX_ARRIVALS, of_each=_MAX_ARRIVALS_OF_EACH)
        for timed in found:
            self._learn(timed)
        self._since = now
        self._told = {key: at for key, at in self._told.items() if at >= now - 2 * _LATE}

    def _learn(self, timed: TimedFact) -> None:
        # A job comes and ends: two facts of one row.
        key = f"{type(timed.fact).__name__} {timed.row_id}"
        if key not in self._told:
            self._told[key] = timed.at
            self._estimates.learn(timed.fact)
