"""The engine thread and a job that moves: read without being decoded, left to another worker, or taken back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.engines.base import EngineLimits, EngineRequest
from sllm_tasks.engines.instant import InstantEngine
from sllm_tasks.errors import MigrationError
from sllm_tasks.jobs import FinishReason, JobSpec, JobStatus, SamplingParams, StartKind
from sllm_tasks.livestate.jobs import Claim
from sllm_tasks.worker.engine_loop import EngineLoop
from sllm_tasks.worker.runs import JobRun, Stop
from sllm_tasks.worker.text import TextAssembler
from tests.unit.worker.test_engine_loop import ListeningEmitter, until

_TOKENIZER = Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2}, unk_token="a"))
_LONG = 100_000


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


def request(max_tokens: int = 3) -> EngineRequest:
    return EngineRequest(job_id="job_1", token_ids=(1, 2), params=SamplingParams(max_tokens=max_tokens, seed=1))


def job_run(max_tokens: int = 3) -> JobRun:
    spec = JobSpec(
        job_id="job_1",
        tenant="t",
        model="m",
        checkpoint="c",
        shape=ReplicaShape(engine="instant", num_gpus=1, bytes_per_gpu=1, max_jobs=1, context=64),
        prompt_ids=(1, 2),
        params=request(max_tokens).params,
    )
    return JobRun(Claim(spec=spec, attempt=1, epoch=1, replica_id="r", start_kind=StartKind.WARM))


def submit(loop: EngineLoop, engine: InstantEngine, run: JobRun, max_tokens: int = 3) -> None:
    loop.submit(run, engine, request(max_tokens), TextAssembler(_TOKENIZER, (1, 2)))


def test_a_job_is_read_and_then_decoded(loop: EngineLoop, engine: InstantEngine) -> None:
    assert loop.read(engine, request(), reader="a").result(10) is None
    run = job_run()
    submit(loop, engine, run)
    assert run.finished.wait(10)
    assert run.outcome is not None
    assert run.outcome.status is JobStatus.SUCCEEDED


def test_reading_for_an_engine_that_is_gone_fails(loop: EngineLoop, engine: InstantEngine) -> None:
    loop.remove(engine)
    with pytest.raises(MigrationError, match="unloaded"):
        loop.read(engine, request(), reader="a").result(10)


def test_who_gives_a_job_up_drops_what_no_other_reader_has_read_of_it(loop: EngineLoop, engine: InstantEngine) -> None:
    loop.read(engine, request(), reader="a").result(10)
    loop.read(engine, request(), reader="b").result(10)
    loop.forget("job_1", reader="a")
    passed(loop, engine)
    assert set(loop._reading) == {"job_1"}
    loop.forget("job_1", reader="b")
    until(lambda: not loop._reading)


def test_a_reader_that_gives_up_before_its_job_is_read_leaves_nothing_behind(engine: InstantEngine) -> None:
    loop = EngineLoop(ListeningEmitter(), now_ms=lambda: 1_000)  # type: ignore[arg-type]
    loop.add(engine)
    answer = loop.read(engine, request(), reader="a")
    loop.forget("job_1", reader="a")
    loop.start()
    try:
        with pytest.raises(MigrationError, match="nobody wants it"):
            answer.result(10)
        assert not loop._reading
    finally:
        loop.stop()


def passed(loop: EngineLoop, engine: InstantEngine) -> None:
    """Wait until the engine thread has found all notes that were left before."""
    other = replace(request(), job_id="job_2")
    loop.read(engine, other, reader="passing").result(10)
    loop.forget("job_2", reader="passing")
    until(lambda: "job_2" not in loop._reading)


def test_a_run_that_moves_stops_between_two_steps_and_can_go_on_here(loop: EngineLoop, engine: InstantEngine) -> None:
    run = job_run(_LONG)
    submit(loop, engine, run, _LONG)
    until(lambda: len(run.tokens) > 3)
    assert run.request_stop(Stop.MOVE)
    loop.wake()
    until(lambda: run.has_left_engine)
    num_tokens = len(run.tokens)
    run.stay()
    assert run.stop is None
    assert len(run.tokens) == num_tokens


def test_other_wishes_wait_until_a_move_has_failed() -> None:
    run = job_run()
    run.request_stop(Stop.MOVE)
    assert run.request_stop(Stop.CANCEL)
    assert run.stop is Stop.MOVE
    run.stay()
    assert run.stop is Stop.CANCEL


def test_a_lost_job_is_lost_also_while_it_moves() -> None:
    run = job_run()
    run.request_stop(Stop.MOVE)
    run.request_stop(Stop.LOST)
    run.stay()
    assert run.stop is Stop.LOST


def test_a_late_word_of_an_attempt_to_move_does_not_end_the_wait() -> None:
    run = job_run()
    run.request_stop(Stop.MOVE)
    run.stay()
    run.finished.set()
    waiting = threading.Thread(target=run.wait_until_left, daemon=True)
    waiting.start()
    until(lambda: not run.finished.is_set())
    assert waiting.is_alive()
    run.succeed(FinishReason.STOP)
    run.finished.set()
    waiting.join(10)
    assert not waiting.is_alive()
    assert run.finished.is_set()
