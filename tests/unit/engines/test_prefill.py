"""Reading a job that is decoded elsewhere: the target of a migration goes on as the source would have."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.engines.base import Engine, EngineFailure, EngineLimits, EnginePrefilled, EngineRequest, EngineToken
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.instant import InstantEngine
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import SamplingParams

LIMITS = EngineLimits(max_jobs=3, context=120, prefill_tokens_per_step=16)
PARAMS = SamplingParams(max_tokens=20, seed=3, temperature=0.8, ignore_eos=True)
PROMPT = tuple(random.Random(1).choices(range(1, 300), k=40))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture(params=[StepLoopEngine, ExactEngine, InstantEngine])
def engine(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[Engine]:
    engine: Engine = request.param()
    engine.load(checkpoint, ("cpu",), LIMITS)
    yield engine
    engine.unload()


def job(num_emitted: int, emitted: tuple[int, ...] = (), job_id: str = "a") -> EngineRequest:
    return EngineRequest(
        job_id=job_id, token_ids=PROMPT + emitted[:num_emitted], params=PARAMS, num_emitted=num_emitted
    )


def drain(engine: Engine) -> list[EngineToken]:
    tokens = []
    while engine.has_work:
        tokens += [event for event in engine.poll() if isinstance(event, EngineToken)]
    return tokens


def decoded(engine: Engine, request: EngineRequest) -> tuple[int, ...]:
    engine.submit(request)
    return tuple(token.token_id for token in drain(engine) if token.job_id == request.job_id)


def read(engine: Engine, request: EngineRequest, beside: list[EngineToken] | None = None) -> EnginePrefilled:
    """Read a job; tokens of others that come meanwhile go to `beside`."""
    engine.prefill(request)
    answers: list[EnginePrefilled] = []
    while not answers:
        assert engine.has_work
        events = engine.poll()
        answers = [event for event in events if isinstance(event, EnginePrefilled)]
        if beside is not None:
            beside += [event for event in events if isinstance(event, EngineToken)]
    return answers[0]


@pytest.mark.parametrize("rounds", [(0,), (5,), (3, 4, 11), (1, 19)])
def test_a_job_that_was_read_in_rounds_goes_on_as_if_it_had_been_here(engine: Engine, rounds: tuple[int, ...]) -> None:
    whole = decoded(engine, job(0))
    for num_emitted in rounds:
        assert read(engine, job(num_emitted, whole)).num_tokens == len(PROMPT) + num_emitted
    last = min(rounds[-1] + 2, 19)
    assert decoded(engine, job(last, whole)) == whole[last:]


def test_nothing_is_decoded_of_a_job_that_is_only_read(engine: Engine) -> None:
    read(engine, job(0))
    assert not engine.has_work
    assert engine.poll() == []


def test_jobs_beside_one_that_is_only_read_go_on(engine: Engine) -> None:
    whole = decoded(engine, job(0))
    engine.submit(job(0, job_id="beside"))
    tokens: list[EngineToken] = []
    read(engine, job(4, whole), tokens)
    engine.submit(job(6, whole))
    tokens += drain(engine)
    found = {job_id: tuple(token.token_id for token in tokens if token.job_id == job_id) for job_id in ("a", "beside")}
    assert found == {"a": whole[6:], "beside": whole}


def test_a_job_that_goes_on_otherwise_than_it_was_read_is_read_anew(engine: Engine) -> None:
    whole = decoded(engine, job(0))
    wrong = tuple((token_id + 1) % 300 for token_id in whole)
    read(engine, job(6, wrong))
    assert decoded(engine, job(6, whole)) == whole[6:]


def test_a_forgotten_job_gives_its_room_back(engine: Engine) -> None:
    for _ in range(3 * LIMITS.max_jobs):
        read(engine, job(0))
        engine.abort("a")
    assert len(decoded(engine, job(0))) == PARAMS.max_tokens


@pytest.mark.parametrize("engine", [StepLoopEngine, ExactEngine], indirect=True)
def test_a_job_that_is_refused_after_a_part_of_it_was_read_leaves_its_place_to_others(engine: Engine) -> None:
    whole = decoded(engine, job(0))
    for number in range(LIMITS.max_jobs):
        engine.prefill(job(0, job_id=f"read-{number}"))
        # A part of its prompt.
        engine.poll()
        engine.prefill(job(20, (*whole, 1), job_id=f"read-{number}"))
        events = engine.poll()
        assert [type(event) for event in events] == [EngineFailure]
    engine.submit(job(0, job_id="b"))
    events = [event for _ in range(200) for event in engine.poll()]
    assert tuple(event.token_id for event in events if isinstance(event, EngineToken)) == whole
