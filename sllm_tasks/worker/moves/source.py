"""The source of a migration: sends tokens while its job goes on, and hands over once the target has caught up."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sllm_tasks.errors import UnavailableError
from sllm_tasks.failpoints import failpoint
from sllm_tasks.livestate import LiveState
from sllm_tasks.migration.records import HandOver, Migration, PrefixHash
from sllm_tasks.migration.rounds import CatchUp, Step, next_step
from sllm_tasks.migration.states import MigrationState
from sllm_tasks.worker.moves.mailbox import Mailbox
from sllm_tasks.worker.runs import Acknowledged, JobRun, RunTable, Stop

logger = logging.getLogger(__name__)

_RETRY_S = 0.2
_BEFORE_HAND_OVER = frozenset({MigrationState.PLANNED, MigrationState.LOADING, MigrationState.CATCHING_UP})


class Source:
    """One thread per migration calls `follow`; the job's own thread calls `hand_over` when the engine has let go."""

    def __init__(self, live: LiveState, runs: RunTable, wake_engine: Callable[[], None]) -> None:
        self._live = live
        self._runs = runs
        self._wake_engine = wake_engine

    def follow(self, migration: Migration, mailbox: Mailbox) -> None:
        """Bring the target up to date until it can take over or the migration is over; raises UnavailableError."""
        run = self._runs.get(migration.job_id)
        if run is None or (run.claim.attempt, run.claim.epoch) != (migration.attempt, migration.epoch):
            return
        known = Acknowledged(migration.id, PrefixHash(run.claim.spec.prompt_ids))
        began_s, began_tokens = time.monotonic(), len(run.tokens)
        found: Migration | None = migration
        while found is not None and found.state in _BEFORE_HAND_OVER and run.outcome is None:
            if run.stop is Stop.MOVE:
                return
            if found.state is MigrationState.CATCHING_UP and found.is_settled:
                last_gap = found.num_acked - known.num_tokens
                _note(known, run, found.num_acked)
                if str(known.prefix) != found.acked_hash:
                    self._live.migrations.end(migration.id, MigrationState.FAILED, "the target has other tokens")
                    return
                rate = (len(run.tokens) - began_tokens) / max(time.monotonic() - began_s, 1e-3)
                if not self._go_on(run, found, known, rate, last_gap):
                    return
            mailbox.wait()
            found = self._live.migrations.get(migration.id)

    def _go_on(self, run: JobRun, migration: Migration, known: Acknowledged, source_rate: float, last_gap: int) -> bool:
        """Send another round and wait for it; False when there is nothing more to follow."""
        num_written = run.num_written
        progress = CatchUp(
            num_rounds=migration.round_acked,
            gap=num_written - migration.num_acked,
            last_gap=last_gap,
            source_rate=source_rate,
            target_rate=migration.target_rate,
        )
        step = next_step(progress)
        if step is Step.ROUND:
            round_ = migration.round_sent + 1
            failpoint(f"migrate.round{round_}.send", subject=run.job_id)
            ids = [token.token_id for token in run.tokens[migration.num_sent : num_written]]
            return self._live.migrations.send_round(migration.id, run.claim, round_, migration.num_sent, ids)
        if step is Step.GIVE_UP:
            why = f"the target falls behind: {progress.gap} tokens after {progress.num_rounds} rounds"
            self._live.migrations.end(migration.id, MigrationState.FAILED, why)
        else:
            run.acknowledged = known
            if run.request_stop(Stop.MOVE):
                self._wake_engine()
        return False

    def hand_over(self, run: JobRun) -> HandOver:
        """Make the target the owner of a job that the engine has let go of; all its tokens are written."""
        known = run.acknowledged
        if known is None:
            return HandOver.REFUSED
        ids = [token.token_id for token in run.tokens[known.num_tokens :]]
        failpoint("handover.before_cas", subject=run.job_id)
        while True:
            try:
                answer = self._live.migrations.hand_over(
                    known.migration_id,
                    run.claim,
                    num_acked=known.num_tokens,
                    prefix_hash=str(known.prefix),
                    token_ids=ids,
                )
            except UnavailableError as error:
                # It may have happened or not; the same question again has the same answer.
                logger.warning("job %s waits between two workers: %s", run.job_id, error)
                time.sleep(_RETRY_S)
            else:
                failpoint("handover.after_cas", subject=run.job_id)
                logger.info("job %s leaves with %d tokens: %s", run.job_id, len(run.tokens), answer)
                return answer


def _note(known: Acknowledged, run: JobRun, num_acked: int) -> None:
    known.prefix.add(token.token_id for token in run.tokens[known.num_tokens : num_acked])
    known.num_tokens = num_acked
