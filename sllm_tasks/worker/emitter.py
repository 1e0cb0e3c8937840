"""Writes tokens to the live state beside the engine, so that a slow Redis never stalls a decode step."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence

from sllm_tasks.errors import UnavailableError
from sllm_tasks.jobs import TokenRecord
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.jobs import Append, Gap, Verdict
from sllm_tasks.threads import ServiceThread
from sllm_tasks.worker.runs import JobRun, Stop

logger = logging.getLogger(__name__)

_RETRY_S = 0.2


class Emitter:
    """One thread, one pipeline per decode step; when it falls behind, the steps that wait go out together.

    A run is `finished` only after its last token is written, or is known to be nobody's business any more. One whose
    tokens cannot be written before the emitter stops is lost: another worker makes them again, the same ones.
    """

    def __init__(self, live: LiveState) -> None:
        self._live = live
        self._steps: queue.SimpleQueue[tuple[JobRun, ...]] = queue.SimpleQueue()
        self._thread = ServiceThread("emitter", self._run)

    def start(self) -> None:
        """Start writing."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is there and stop."""
        self._thread.stopping.set()
        self._steps.put(())
        self._thread.stop()

    def emit(self, runs: Sequence[JobRun]) -> None:
        """Hand over the runs that have new tokens, or an outcome, after one step."""
        self._steps.put(tuple(runs))

    def _run(self, stopping: threading.Event) -> None:
        while True:
            changed = dict.fromkeys(self._steps.get())
            while not self._steps.empty():
                changed.update(dict.fromkeys(self._steps.get()))
            if changed:
                self._write(list(changed), stopping)
            if stopping.is_set() and self._steps.empty():
                return

    def _write(self, runs: list[JobRun], stopping: threading.Event) -> None:
        # `ended` is read first: both are set after the last token, so nothing can follow what is written here.
        ended = [run for run in runs if run.outcome is not None or run.has_left_engine]
        while fresh := _fresh(runs):
            step = [
                Append(job_id=run.job_id, attempt=run.claim.attempt, epoch=run.claim.epoch, tokens=tokens)
                for run, tokens in fresh
            ]
            try:
                answers = self._live.jobs.append(step)
            except UnavailableError as error:
                logger.warning("tokens of %d jobs wait: %s", len(fresh), error)
                if stopping.is_set():
                    for run, _ in fresh:
                        run.request_stop(Stop.LOST)
                        run.finished.set()
                    break
                time.sleep(_RETRY_S)
                continue
            for (run, tokens), answer in zip(fresh, answers, strict=True):
                _note(run, len(tokens), answer)
            runs = [run for (run, _), answer in zip(fresh, answers, strict=True) if isinstance(answer, Gap)]
        for run in ended:
            run.finished.set()


def _fresh(runs: Sequence[JobRun]) -> list[tuple[JobRun, tuple[TokenRecord, ...]]]:
    """Which tokens of which runs are to be written."""
    fresh = [(run, tuple(run.tokens[run.num_written :])) for run in runs if run.stop is not Stop.LOST]
    return [(run, tokens) for run, tokens in fresh if tokens]


def _note(run: JobRun, num_tokens: int, answer: Verdict | Gap) -> None:
    if isinstance(answer, Gap):
        # The job is still ours, and all its tokens are here.
        logger.warning("job %s: tokens from %d on were lost and are written again", run.job_id, answer.num_tokens)
        run.num_written = answer.num_tokens
        return
    run.num_written += num_tokens
    if answer is Verdict.STALE:
        run.request_stop(Stop.LOST)
    elif answer is Verdict.CANCEL:
        run.request_stop(Stop.CANCEL)
