"""A job's life on a worker, from its claim to its outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import wait

from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.engines.base import EngineRequest
from sllm_tasks.engines.finish import end_token_ids, finish_reason_of_request
from sllm_tasks.errors import ErrorCode, SllmError, StaleError, UnavailableError
from sllm_tasks.failpoints import failpoint
from sllm_tasks.jobs import FinishReason, JobPhase
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.jobs import Verdict
from sllm_tasks.timeline import mark
from sllm_tasks.worker.engine_loop import EngineLoop, deadline_error
from sllm_tasks.worker.replicas import LoadedReplica, ReplicaTable
from sllm_tasks.worker.runs import JobRun, RunTable, Stop
from sllm_tasks.worker.text import TextAssembler

logger = logging.getLogger(__name__)

#: How often a worker that cannot reach the live state tries again to report an outcome.
_RETRY_S = 0.5
#: How soon a job that waits for its replica notices that it should stop.
_LOOK_S = 0.05


class Executor:
    """Runs claimed jobs; one call per job, each on its own thread, all of them waiting most of the time."""

    def __init__(
        self, live: LiveState, dispatcher: Dispatcher, replicas: ReplicaTable, loop: EngineLoop, runs: RunTable
    ) -> None:
        self._live = live
        self._dispatcher = dispatcher
        self._replicas = replicas
        self._loop = loop
        self._runs = runs

    def execute(self, run: JobRun) -> None:
        """Load if need be, decode, report; returns when this worker has nothing more to do with the job."""
        with self._runs.holding(run):
            try:
                self._prepare(run)
            except (StaleError, UnavailableError) as error:
                # The replica was given up, or the live state is away: the job is not at fault and starts again.
                logger.warning("job %s starts again: %s", run.job_id, error)
                run.request_stop(Stop.HAND_OVER)
            except SllmError as error:
                run.fail(error.code, str(error))
            except Exception as error:
                logger.exception("job %s failed", run.job_id)
                run.fail(ErrorCode.INTERNAL, f"{type(error).__name__} while the job was prepared")
            self._conclude(run)

    def _prepare(self, run: JobRun) -> None:
        future = self._replicas.ensure(run.claim.replica_id)
        run.tokens = list(self._live.jobs.tokens(run.job_id)) if run.claim.attempt > 1 else []
        run.num_written = len(run.tokens)
        while not future.done() and run.stop is None:
            wait([future], timeout=_LOOK_S)
            self._look_at_deadline(run)
        if not future.done():
            # Asked to stop while its replica loads: nobody has to wait for the end of the load.
            if run.stop is Stop.CANCEL:
                run.cancel()
            return
        loaded = future.result()
        request, assembler = self._resume(run, loaded)
        failpoint("prefill.start", subject=run.job_id)
        if self._live.jobs.set_phase(run.claim, JobPhase.PREFILL) is Verdict.STALE:
            run.request_stop(Stop.LOST)
        self._look_at_deadline(run)
        if run.stop is not None:
            if run.stop is Stop.CANCEL:
                run.cancel()
            return
        if run.outcome is None:
            self._loop.submit(run, loaded.engine, request, assembler)
            run.finished.wait()

    def _look_at_deadline(self, run: JobRun) -> None:
        deadline_ms = run.claim.spec.deadline_ms
        if deadline_ms is not None and self._live.now_ms() >= deadline_ms:
            run.request_stop(Stop.CANCEL, deadline_error())

    def _resume(self, run: JobRun, loaded: LoadedReplica) -> tuple[EngineRequest, TextAssembler]:
        """Go on after the tokens of earlier attempts; the job may turn out to be complete."""
        spec, eos_token_ids = run.claim.spec, loaded.engine.eos_token_ids()
        request = EngineRequest(
            job_id=run.job_id,
            token_ids=spec.prompt_ids + tuple(token.token_id for token in run.tokens),
            params=spec.params,
            num_emitted=len(run.tokens),
        )
        end_ids = end_token_ids(spec.params, eos_token_ids)
        assembler = TextAssembler(loaded.tokenizer, spec.prompt_ids, spec.params.stop, end_ids=end_ids)
        stopped = [assembler.push(token.token_id).stopped for token in run.tokens]
        reason = finish_reason_of_request(request, eos_token_ids, loaded.limits)
        if any(stopped):
            reason = FinishReason.STOP
        if reason is not None:
            run.succeed(reason)
        return request, assembler

    def _conclude(self, run: JobRun) -> None:
        if run.outcome is not None:
            outcome = run.outcome
            self._until_reachable(lambda: self._live.jobs.finish(run.claim, outcome))
            mark("job.finished", run.job_id)
            self._dispatcher_route()
        elif run.stop is Stop.HAND_OVER:
            self._until_reachable(lambda: self._live.jobs.release(run.claim, "hand_over"))
            self._dispatcher_route()

    def _dispatcher_route(self) -> None:
        """A place became free; a trigger that is lost here is made up for by the router's timer."""
        try:
            if self._live.jobs.num_waiting():
                self._dispatcher.route()
        except UnavailableError as error:
            logger.debug("the router was not woken: %s", error)

    def _until_reachable(self, write: Callable[[], Verdict]) -> None:
        while True:
            try:
                verdict = write()
            except UnavailableError as error:
                logger.warning("an outcome waits: %s", error)
                time.sleep(_RETRY_S)
            else:
                if verdict is Verdict.STALE:
                    logger.info("an outcome came too late and was refused")
                return
