"""A job's life on a worker, from its claim to its outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import wait

from sllm_tasks.cluster import Gpu
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.errors import ErrorCode, SllmError, StaleError, UnavailableError
from sllm_tasks.failpoints import failpoint
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobPhase
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.jobs import Verdict
from sllm_tasks.logs import bound
from sllm_tasks.migration.records import HandOver
from sllm_tasks.signing import Trigger
from sllm_tasks.timeline import mark
from sllm_tasks.traceparent import trace_id
from sllm_tasks.worker.continuation import Continuation
from sllm_tasks.worker.engine_loop import EngineLoop, deadline_error
from sllm_tasks.worker.moves.source import Source
from sllm_tasks.worker.patience import Patience
from sllm_tasks.worker.replicas import LoadedReplica, ReplicaTable
from sllm_tasks.worker.runs import JobRun, RunTable, Stop

logger = logging.getLogger(__name__)

#: How soon a job that waits for its replica notices that it should stop.
_LOOK_S = 0.05


class Executor:
    """Runs claimed jobs; one call per job, each on its own thread, all of them waiting most of the time."""

    def __init__(
        self,
        live: LiveState,
        dispatcher: Dispatcher,
        replicas: ReplicaTable,
        loop: EngineLoop,
        runs: RunTable,
        source: Source,
    ) -> None:
        self._live = live
        self._dispatcher = dispatcher
        self._replicas = replicas
        self._loop = loop
        self._runs = runs
        self._source = source
        self._patience = Patience()

    def claim(self, trigger: Trigger, gpu: Gpu) -> JobRun | None:
        """Take the job of a trigger; None for a duplicate, a stale trigger, or one that the next worker may have."""
        # Asked with one id until it is known: a claim whose answer is lost would count as that of a dead worker.
        job_id, attempt, call_id = trigger.subject, trigger.attempt, new_id("call")
        jobs = self._live.jobs
        try:
            claim = self._patience.until_reachable(
                lambda: jobs.claim(job_id, attempt, gpu.id, gpu.worker_id, trigger.expires_ms, call_id), "a claim"
            )
        except UnavailableError as error:
            logger.warning("job %s attempt %d is not claimed: %s", job_id, attempt, error)
            return None
        if isinstance(claim, str):
            logger.debug("job %s attempt %d not claimed: %s", job_id, attempt, claim)
            return None
        mark("job.claimed", job_id)
        return JobRun(claim)

    def stop(self) -> None:
        """Wait for the live state no longer; what is not written by now is another worker's."""
        self._patience.lose()

    def execute(self, run: JobRun) -> None:
        """Load if need be, decode, report; returns when this worker has nothing more to do with the job."""
        self._hold(run, lambda: self._begin(run))

    def go_on(self, run: JobRun, loaded: LoadedReplica, job: Continuation) -> None:
        """Decode a job that has moved here, and report; returns as `execute` does."""
        self._hold(run, lambda: self._decode(run, loaded, job))

    def _hold(self, run: JobRun, body: Callable[[], None]) -> None:
        spec = run.claim.spec
        ids = {"request_id": spec.request_id, "trace_id": trace_id(spec.traceparent)}
        with self._runs.holding(run), bound(job_id=run.job_id, attempt=run.claim.attempt, **ids):
            try:
                body()
            except (StaleError, UnavailableError) as error:
                # The replica was given up, or the live state is away: the job is not at fault and starts again.
                logger.warning("job %s starts again: %s", run.job_id, error)
                run.request_stop(Stop.HAND_OVER)
                if run.outcome is None and run.stop is Stop.CANCEL:
                    run.cancel()
            except SllmError as error:
                run.fail(error.code, str(error))
            except Exception as error:
                logger.exception("job %s failed", run.job_id)
                run.fail(ErrorCode.INTERNAL, f"{type(error).__name__} while the job was prepared")
            self._conclude(run)

    def _begin(self, run: JobRun) -> None:
        future = self._replicas.ensure(run.claim.replica_id)
        if run.claim.attempt > 1:
            run.tokens = list(self._patience.until_reachable(lambda: self._live.jobs.tokens(run.job_id), "a job"))
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
        job = self._resume(run, loaded)
        failpoint("prefill.start", subject=run.job_id)
        verdict = self._patience.until_reachable(
            lambda: self._live.jobs.set_phase(run.claim, JobPhase.PREFILL), "a job"
        )
        if verdict is Verdict.STALE:
            run.request_stop(Stop.LOST)
        self._look_at_deadline(run)
        self._decode(run, loaded, job)

    def _decode(self, run: JobRun, loaded: LoadedReplica, job: Continuation) -> None:
        """Let the engine have the job until it ends, stops or moves away; a move that fails lets it go on here."""
        while run.outcome is None and run.stop is None:
            self._loop.submit(run, loaded.engine, job.request(), job.assembler)
            run.wait_until_left()
            if not self._could_not_leave(run):
                return
            run.stay()
            job = self._resume(run, loaded)
        if run.outcome is None and run.stop is Stop.CANCEL:
            run.cancel()

    def _could_not_leave(self, run: JobRun) -> bool:
        if run.outcome is not None or run.stop is not Stop.MOVE:
            return False
        answer = self._source.hand_over(run)
        if answer is HandOver.STALE:
            run.request_stop(Stop.LOST)
        return answer is HandOver.REFUSED

    def _look_at_deadline(self, run: JobRun) -> None:
        deadline_ms = run.claim.spec.deadline_ms
        if deadline_ms is not None and self._live.now_ms() >= deadline_ms:
            run.request_stop(Stop.CANCEL, deadline_error())

    def _resume(self, run: JobRun, loaded: LoadedReplica) -> Continuation:
        """Go on after the tokens that the job has; it may turn out to be complete."""
        job = Continuation(run.claim.spec, loaded)
        job.add(token.token_id for token in run.tokens)
        reason = job.finish_reason()
        if reason is not None:
            run.succeed(reason)
        return job

    def _conclude(self, run: JobRun) -> None:
        if run.stop is Stop.LOST:
            return
        if run.outcome is not None:
            outcome = run.outcome
            self._write_end(lambda: self._live.jobs.finish(run.claim, outcome))
            mark("job.finished", run.job_id)
            self._dispatcher_route()
        elif run.stop is Stop.HAND_OVER:
            self._write_end(lambda: self._live.jobs.release(run.claim, "hand_over"))
            self._dispatcher_route()
        elif run.stop is Stop.MOVE:
            # It has left; perhaps for a job that waits.
            self._dispatcher_route()

    def _dispatcher_route(self) -> None:
        """A place became free; a trigger that is lost here is made up for by the router's timer."""
        try:
            if self._live.jobs.num_waiting():
                self._dispatcher.route()
        except UnavailableError as error:
            logger.debug("the router was not woken: %s", error)

    def _write_end(self, write: Callable[[], Verdict]) -> None:
        try:
            if self._patience.until_reachable(write, "an outcome") is Verdict.STALE:
                logger.info("an outcome came too late and was refused")
        except UnavailableError as error:
            logger.warning("an outcome is left to the next worker: %s", error)
