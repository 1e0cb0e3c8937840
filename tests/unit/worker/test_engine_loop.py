"""The engine thread: what it does with jobs that stop, run late or come twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.engines.base import EngineLimits, EngineRequest
from sllm_tasks.engines.instant import InstantEngine
from sllm_tasks.jobs import FinishReason, JobSpec, JobStatus, SamplingParams, StartKind
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.worker.engine_loop import EngineLoop
from sllm_tasks.worker.runs import JobRun, Stop
from sllm_tasks.worker.text import TextAssembler

_TOKENIZER = Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
_LONG = 100_000


class ListeningEmitter:
    """Takes what the loop emits and ends runs at once, as if every write had worked."""

    def emit(self, runs: Sequence[JobRun]) -> None:
        for run in runs:
            if run.outcome is not None or run.has_left_engine:
                run.finished.set()


@pytest.fixture
def engine(tmp_path: Path) -> InstantEngine:
    engine = InstantEngine()
    engine.load(tmp_path, ("cpu",), EngineLimits(max_jobs=8, context=2 * _LONG))
    return engine


@pytest.fixture
def loop(engine: InstantEngine) -> Iterator[EngineLoop]:
    loop = EngineLoop(ListeningEmitter(), now_ms=lambda: 1_000)  # type: ignore[arg-type]
    loop.start()
    loop.add(engine)
    yield loop
    loop.stop()


def submit(loop: EngineLoop, engine: InstantEngine, max_tokens: int, *, deadline_ms: int | None = None) -> JobRun:
    params = SamplingParams(max_tokens=max_tokens, seed=1)
    spec = JobSpec(
        job_id="job_1",
        tenant="t",
        model="m",
        checkpoint="c",
        shape=ReplicaShape(engine="instant", num_gpus=1, bytes_per_gpu=1, max_jobs=1, context=64),
        prompt_ids=(1, 2),
        params=params,
        deadline_ms=deadline_ms,
    )
    run = JobRun(Claim(spec=spec, attempt=1, epoch=1, replica_id="r", start_kind=StartKind.WARM))
    request = EngineRequest(job_id=spec.job_id, token_ids=spec.prompt_ids, params=params)
    loop.submit(run, engine, request, TextAssembler(_TOKENIZER, spec.prompt_ids))
    return run


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_a_job_ends_with_as_many_tokens_as_it_asked_for(loop: EngineLoop, engine: InstantEngine) -> None:
    run = submit(loop, engine, 3)
    assert run.finished.wait(10)
    assert run.outcome is not None
    assert run.outcome.finish_reason is FinishReason.LENGTH
    assert [token.index for token in run.tokens] == [0, 1, 2]


def test_a_cancelled_job_keeps_the_tokens_it_has(loop: EngineLoop, engine: InstantEngine) -> None:
    run = submit(loop, engine, _LONG)
    until(lambda: len(run.tokens) > 3)
    run.request_stop(Stop.CANCEL)
    assert run.finished.wait(10)
    assert run.outcome is not None
    assert run.outcome.status is JobStatus.CANCELED
    assert run.outcome.usage is not None
    assert run.outcome.usage.completion_tokens == len(run.tokens)


def test_a_job_past_its_deadline_is_cancelled(loop: EngineLoop, engine: InstantEngine) -> None:
    run = submit(loop, engine, _LONG, deadline_ms=999)
    assert run.finished.wait(10)
    assert run.outcome is not None
    assert run.outcome.error is not None
    assert run.outcome.error.code == "deadline_exceeded"


def test_a_handed_over_job_has_no_outcome(loop: EngineLoop, engine: InstantEngine) -> None:
    run = submit(loop, engine, _LONG)
    run.request_stop(Stop.HAND_OVER)
    assert run.finished.wait(10)
    assert run.outcome is None


def test_an_attempt_that_comes_while_the_one_before_still_runs_takes_its_place(
    loop: EngineLoop, engine: InstantEngine
) -> None:
    stale = submit(loop, engine, _LONG)
    until(lambda: bool(stale.tokens))
    current = submit(loop, engine, 5)
    assert stale.finished.wait(10)
    assert stale.stop is Stop.LOST
    assert stale.outcome is None
    assert current.finished.wait(10)
    assert current.outcome is not None
    assert len(current.tokens) == 5


def test_an_engine_is_left_alone_once_it_is_removed(loop: EngineLoop, engine: InstantEngine) -> None:
    run = submit(loop, engine, 2)
    assert run.finished.wait(10)
    loop.remove(engine)
    engine.unload()
    assert not engine.has_work


def test_jobs_of_an_engine_that_is_removed_are_somebody_elses(loop: EngineLoop, engine: InstantEngine) -> None:
    run = submit(loop, engine, _LONG)
    until(lambda: bool(run.tokens))
    loop.remove(engine)
    engine.unload()
    late = submit(loop, engine, _LONG)
    for lost in (run, late):
        assert lost.finished.wait(10)
        assert (lost.stop, lost.outcome) == (Stop.LOST, None)
