"""The target of a migration: reads what the source sends, and goes on with the job once it owns it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

from sllm_tasks.errors import MigrationError, SllmError, UnavailableError
from sllm_tasks.failpoints import failpoint
from sllm_tasks.jobs import StartKind
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.migration.records import Migration
from sllm_tasks.migration.states import MigrationState
from sllm_tasks.worker.continuation import Continuation
from sllm_tasks.worker.engine_loop import EngineLoop
from sllm_tasks.worker.moves.mailbox import Mailbox, tokens_from
from sllm_tasks.worker.replicas import LoadedReplica, ReplicaTable
from sllm_tasks.worker.runs import JobRun

logger = logging.getLogger(__name__)

_LOOK_S = 0.5

#: Goes on with a job that this worker owns now; returns when it has nothing more to do with it.
GoOn = Callable[[JobRun, LoadedReplica, Continuation], None]


class Target:
    """One thread per migration calls `follow`."""

    def __init__(self, live: LiveState, worker_id: str, replicas: ReplicaTable, loop: EngineLoop, go_on: GoOn) -> None:
        self._live = live
        self._worker_id = worker_id
        self._replicas = replicas
        self._loop = loop
        self._go_on = go_on

    def follow(self, migration: Migration, mailbox: Mailbox) -> None:
        """Read round after round; a failure here ends the migration and leaves the job alone."""
        try:
            self._follow(migration, mailbox)
        except UnavailableError:
            raise
        except SllmError as error:
            logger.warning("migration %s of job %s given up: %s", migration.id, migration.job_id, error)
            self._live.migrations.end(migration.id, MigrationState.FAILED, str(error))
        finally:
            self._loop.forget(migration.job_id, reader=migration.id)

    def _follow(self, migration: Migration, mailbox: Mailbox) -> None:
        spec = self._live.jobs.spec(migration.job_id)
        loading = self._replicas.ensure(migration.target_replica)
        if spec is None or not self._wait(migration.id, loading):
            return
        loaded = loading.result()
        job = Continuation(spec, loaded)
        self._acknowledge(migration.id, job, 0, 0.0)
        round_read = 0
        while True:
            job.add(tokens_from(mailbox.wait(), job.num_tokens))
            found = self._live.migrations.get(migration.id)
            if found is None or found.state.is_terminal:
                return
            if job.num_tokens < found.num_sent:
                job.add(self._live.migrations.tokens(migration.id, job.num_tokens))
            if found.state is MigrationState.HANDING_OVER:
                self._take_over(found, loaded, job)
                return
            if found.round_sent > round_read:
                round_read = found.round_sent
                if not self._read_round(migration.id, round_read, loaded, job):
                    return

    def _read_round(self, migration_id: str, round_: int, loaded: LoadedReplica, job: Continuation) -> bool:
        failpoint(f"migrate.round{round_}.recv", subject=job.spec.job_id)
        began_s = time.monotonic()
        request = job.request()
        if not self._wait(migration_id, self._loop.read(loaded.engine, request, reader=migration_id)):
            return False
        failpoint(f"migrate.round{round_}.ack", subject=job.spec.job_id)
        self._acknowledge(migration_id, job, round_, time.monotonic() - began_s)
        return True

    def _acknowledge(self, migration_id: str, job: Continuation, round_: int, seconds: float) -> None:
        self._live.migrations.acknowledge(
            migration_id,
            self._worker_id,
            round_=round_,
            num_tokens=job.num_tokens,
            prefix_hash=str(job.prefix),
            seconds=seconds,
        )

    def _wait(self, migration_id: str, future: Future[Any]) -> bool:
        """Wait for a load or a round; False when the migration is over before. Raises what the future does."""
        while True:
            wait([future], timeout=_LOOK_S)
            if future.done():
                error = future.exception()
                if error is not None and not isinstance(error, SllmError):
                    raise MigrationError(f"{type(error).__name__} at the target: {error}") from error
                future.result()
                return True
            found = self._live.migrations.get(migration_id)
            if found is None or found.state.is_terminal:
                return False

    def _take_over(self, migration: Migration, loaded: LoadedReplica, job: Continuation) -> None:
        claim = Claim(
            spec=job.spec,
            attempt=migration.attempt,
            epoch=migration.new_epoch,
            replica_id=migration.target_replica,
            start_kind=StartKind.MIGRATED,
        )
        run = JobRun(claim)
        failpoint("handover.resume", subject=run.job_id)
        logger.info("job %s arrives with %d tokens", run.job_id, job.num_tokens)
        # Log probabilities are no function of the tokens; the event stream has them.
        has_logprobs = job.spec.params.logprobs is not None
        run.tokens = list(self._live.jobs.tokens(run.job_id) if has_logprobs else job.records)
        run.num_written = len(run.tokens)
        self._go_on(run, loaded, job)
