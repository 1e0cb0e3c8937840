"""The one thread that decodes: it steps every loaded engine, turns tokens into text and hands them to the emitter."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from sllm_tasks.engines.base import Engine, EngineEvent, EngineFailure, EnginePrefilled, EngineRequest, EngineToken
from sllm_tasks.errors import ErrorCode, MigrationError
from sllm_tasks.failpoints import failpoint
from sllm_tasks.jobs import FinishReason, JobError, TokenRecord
from sllm_tasks.threads import ServiceThread
from sllm_tasks.timeline import mark
from sllm_tasks.worker.emitter import Emitter
from sllm_tasks.worker.runs import JobRun, Stop
from sllm_tasks.worker.text import TextAssembler

logger = logging.getLogger(__name__)

_IDLE_WAIT_S = 0.5


@dataclass(slots=True)
class _Decoding:
    run: JobRun
    engine: Engine
    assembler: TextAssembler
    #: Whether it has a token of this engine.
    has_started: bool = False


@dataclass(slots=True)
class _Reading:
    """A job that is decoded elsewhere."""

    engine: Engine
    #: Who wants it read: a migration's id.
    reader: str
    #: Resolved when all its tokens so far are read.
    answer: Future[None]


class EngineLoop:
    """Engines are stepped in turn by one thread; other threads only leave notes under the lock."""

    def __init__(self, emitter: Emitter, now_ms: Callable[[], int | None]) -> None:
        self._emitter = emitter
        self._now_ms = now_ms
        self._thread = ServiceThread("engine", self._run)
        # Guarded by the condition's lock: notes of other threads, and the engines to step.
        self._condition = threading.Condition()
        self._engines: list[Engine] = []
        self._arrivals: list[tuple[_Decoding, EngineRequest]] = []
        self._removals: list[tuple[Engine, threading.Event]] = []
        self._readings: list[tuple[_Reading, EngineRequest]] = []
        self._forgotten: list[tuple[str, str]] = []
        # The engine thread's own.
        self._decoding: dict[str, _Decoding] = {}
        self._reading: dict[str, _Reading] = {}

    def start(self) -> None:
        """Start decoding."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current step."""
        self._thread.stopping.set()
        self.wake()
        self._thread.stop()

    def wake(self) -> None:
        """Look at the notes now: a run has been asked to stop."""
        with self._condition:
            self._condition.notify_all()

    def add(self, engine: Engine) -> None:
        """Step an engine from now on."""
        with self._condition:
            self._engines.append(engine)

    def remove(self, engine: Engine) -> None:
        """Stop stepping an engine; when this returns, nobody is inside it. Jobs that it still has are lost."""
        done = threading.Event()
        with self._condition:
            self._removals.append((engine, done))
            self._condition.notify_all()
        done.wait()

    def submit(self, run: JobRun, engine: Engine, request: EngineRequest, assembler: TextAssembler) -> None:
        """Decode a job; its run tells when it ended."""
        with self._condition:
            self._arrivals.append((_Decoding(run, engine, assembler), request))
            self._condition.notify_all()

    def read(self, engine: Engine, request: EngineRequest, *, reader: str) -> Future[None]:
        """Let an engine read a job that is decoded elsewhere; `submit` or `forget` must follow the last call.

        A job has one reader, the last one that came. The future raises MigrationError when the engine gives the job up.
        """
        reading = _Reading(engine, reader, Future())
        with self._condition:
            self._readings.append((reading, request))
            self._condition.notify_all()
        return reading.answer

    def forget(self, job_id: str, *, reader: str) -> None:
        """Drop what was read of a job, unless another reader has come since."""
        with self._condition:
            self._forgotten.append((job_id, reader))
            self._condition.notify_all()

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            engines = self._take_notes()
            self._emit(self._let_go())
            for engine in engines:
                self._step(engine)

    def _step(self, engine: Engine) -> None:
        """Let an engine make a step; it may pause at first tokens, for them to be handed out at once."""
        while engine.has_work:
            failpoint("decode.step")
            events = engine.poll()
            may_have_paused = any(self._is_start(event) for event in events)
            self._emit(self._handle(events))
            if not may_have_paused:
                return

    def _is_start(self, event: EngineEvent) -> bool:
        decoding = self._decoding.get(event.job_id)
        return isinstance(event, EngineToken) and decoding is not None and not decoding.has_started

    def _emit(self, changed: list[JobRun]) -> None:
        if changed:
            self._emitter.emit(changed)

    def _take_notes(self) -> list[Engine]:
        with self._condition:
            notes = self._arrivals or self._removals or self._readings or self._forgotten
            if not (notes or any(engine.has_work for engine in self._engines)):
                self._condition.wait(_IDLE_WAIT_S)
            arrivals, self._arrivals = self._arrivals, []
            readings, self._readings = self._readings, []
            forgotten, self._forgotten = self._forgotten, []
            removals, self._removals = self._removals, []
            for engine, _ in removals:
                self._engines.remove(engine)
            engines = list(self._engines)
        for engine, done in removals:
            for job_id in [job_id for job_id, decoding in self._decoding.items() if decoding.engine is engine]:
                self._lose(job_id)
            for job_id in [job_id for job_id, reading in self._reading.items() if reading.engine is engine]:
                self._drop_reading(job_id, "its replica was unloaded")
            done.set()
        for reading, request in readings:
            self._read(reading, request, engines)
        # Behind the readings: a reader may have given up before its note was found.
        for job_id, reader in forgotten:
            if job_id in self._reading and self._reading[job_id].reader == reader:
                self._drop_reading(job_id, "nobody wants it any more")
        for decoding, request in arrivals:
            # It came again: this worker was silent for so long that it was given up.
            self._lose(request.job_id)
            self._decoding[request.job_id] = decoding
            if decoding.engine not in engines:
                self._lose(request.job_id)
                continue
            # What the engine has read of it serves it now.
            self._reading.pop(request.job_id, None)
            decoding.engine.submit(request)
            mark("engine.submitted", request.job_id)
        return engines

    def _read(self, reading: _Reading, request: EngineRequest, engines: list[Engine]) -> None:
        before = self._reading.pop(request.job_id, None)
        if before is not None and before.engine is not reading.engine:
            before.engine.abort(request.job_id)
        self._lose(request.job_id)
        if reading.engine in engines:
            self._reading[request.job_id] = reading
            reading.engine.prefill(request)
        else:
            reading.answer.set_exception(MigrationError(f"{request.job_id}: its replica was unloaded"))

    def _drop_reading(self, job_id: str, why: str) -> None:
        reading = self._reading.pop(job_id, None)
        if reading is not None:
            reading.engine.abort(job_id)
            if not reading.answer.done():
                reading.answer.set_exception(MigrationError(f"{job_id}: {why}"))

    def _lose(self, job_id: str) -> None:
        """Drop an attempt that this worker no longer owns."""
        decoding = self._decoding.pop(job_id, None)
        if decoding is not None:
            decoding.engine.abort(job_id)
            decoding.run.request_stop(Stop.LOST)
            decoding.run.finished.set()

    def _let_go(self) -> list[JobRun]:
        """Drop the runs that were asked to stop, and those whose deadline has passed."""
        left, now_ms = [], self._now_ms()
        for job_id, decoding in list(self._decoding.items()):
            run = decoding.run
            deadline_ms = run.claim.spec.deadline_ms
            if run.stop is None and deadline_ms is not None and now_ms is not None and now_ms > deadline_ms:
                run.request_stop(Stop.CANCEL, deadline_error())
            if run.stop is not None:
                decoding.engine.abort(job_id)
                del self._decoding[job_id]
                if run.stop is Stop.CANCEL:
                    run.cancel()
                elif run.stop is Stop.LOST:
                    run.finished.set()
                run.has_left_engine = True
                left.append(run)
        return left

    def _handle(self, events: list[EngineEvent]) -> list[JobRun]:
        changed: list[JobRun] = []
        for event in events:
            decoding = self._decoding.get(event.job_id)
            if decoding is None:
                self._answer(event)
                continue
            if isinstance(event, EnginePrefilled):
                continue
            if isinstance(event, EngineFailure):
                code = ErrorCode.OUT_OF_MEMORY if event.out_of_memory else ErrorCode.INTERNAL
                decoding.run.fail(code, event.message)
            else:
                self._add(decoding, event)
            if decoding.run.outcome is not None:
                del self._decoding[event.job_id]
            changed.append(decoding.run)
        return changed

    def _answer(self, event: EngineEvent) -> None:
        """Tell the target of a migration that a round is read, or never will be."""
        reading = self._reading.get(event.job_id)
        if reading is None or reading.answer.done():
            return
        if isinstance(event, EngineFailure):
            del self._reading[event.job_id]
            reading.answer.set_exception(MigrationError(event.message))
        elif isinstance(event, EnginePrefilled):
            reading.answer.set_result(None)

    def _add(self, decoding: _Decoding, token: EngineToken) -> None:
        failpoint("decode.token", token.index, decoding.run.job_id)
        run = decoding.run
        decoding.has_started = True
        step = decoding.assembler.push(token.token_id, final=token.finish_reason is not None)
        run.tokens.append(
            TokenRecord(
                index=token.index, token_id=token.token_id, text=step.text, logprob=token.logprob, top=token.top
            )
        )
        if step.stopped:
            decoding.engine.abort(run.job_id)
            run.succeed(FinishReason.STOP)
        elif token.finish_reason is not None:
            run.succeed(token.finish_reason)


def deadline_error() -> JobError:
    """Say that a job's time was over."""
    return JobError(code=ErrorCode.DEADLINE_EXCEEDED, message="the deadline passed before the job ended")
