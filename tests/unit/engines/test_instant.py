"""The engine that needs no model follows the whole protocol."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sllm_tasks.engines.base import EngineError, EngineFailure, EngineLimits, EngineRequest, EngineToken
from sllm_tasks.engines.instant import InstantEngine
from sllm_tasks.engines.registry import EngineUnknownError, create_engine, engine_names
from sllm_tasks.jobs import FinishReason, SamplingParams

PROMPT = (11, 12, 13)


@pytest.fixture
def engine() -> InstantEngine:
    engine = InstantEngine()
    engine.load(Path("nowhere"), ("cpu",), EngineLimits(max_jobs=2, context=16))
    return engine


def request(job_id: str, *, emitted: tuple[int, ...] = (), **params: object) -> EngineRequest:
    sampling = SamplingParams(**{"max_tokens": 5, "seed": 0, **params})
    return EngineRequest(job_id=job_id, token_ids=PROMPT + emitted, params=sampling, num_emitted=len(emitted))


def drain(engine: InstantEngine) -> list[EngineToken | EngineFailure]:
    events = []
    while engine.has_work:
        events += engine.poll()
    return events


def test_a_job_echoes_its_prompt_until_max_tokens(engine: InstantEngine) -> None:
    engine.submit(request("a"))
    tokens = drain(engine)
    assert [token.token_id for token in tokens] == [11, 12, 13, 11, 12]
    assert [token.index for token in tokens] == [0, 1, 2, 3, 4]
    assert [token.finish_reason for token in tokens] == [None] * 4 + [FinishReason.LENGTH]


def test_a_resumed_job_continues_where_it_stopped(engine: InstantEngine) -> None:
    engine.submit(request("a", emitted=(11, 12)))
    tokens = drain(engine)
    assert [(token.index, token.token_id) for token in tokens] == [(2, 13), (3, 11), (4, 12)]


def test_an_aborted_job_gives_no_further_token(engine: InstantEngine) -> None:
    engine.submit(request("a"))
    engine.submit(request("b"))
    engine.poll()
    engine.abort("a")
    assert {event.job_id for event in drain(engine)} == {"b"}


def test_jobs_over_the_limit_wait_for_their_turn(engine: InstantEngine) -> None:
    for job_id in ("a", "b", "c"):
        engine.submit(request(job_id))
    assert {event.job_id for event in engine.poll()} == {"a", "b"}
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting) == (2, 1)
    assert sum(event.job_id == "c" for event in drain(engine)) == 5


def test_a_stop_id_ends_a_job(engine: InstantEngine) -> None:
    engine.submit(request("a", stop_token_ids=(12,)))
    assert drain(engine)[-1].finish_reason is FinishReason.STOP


def test_the_context_ends_a_job(engine: InstantEngine) -> None:
    engine.submit(request("a", max_tokens=100))
    tokens = drain(engine)
    assert len(tokens) == 13
    assert tokens[-1].finish_reason is FinishReason.LENGTH


def test_a_job_with_nothing_left_to_produce_fails_alone(engine: InstantEngine) -> None:
    engine.submit(request("a", emitted=(11, 12), max_tokens=2))
    engine.submit(request("b"))
    events = drain(engine)
    assert isinstance(events[0], EngineFailure)
    assert sum(event.job_id == "b" for event in events) == 5


def test_a_snapshot_holds_prompt_and_output(engine: InstantEngine) -> None:
    engine.submit(request("a"))
    engine.poll()
    engine.poll()
    assert engine.snapshot() == {"a": (11, 12, 13, 11, 12)}


def test_an_unloaded_engine_takes_no_job(engine: InstantEngine) -> None:
    engine.submit(request("a"))
    engine.unload()
    engine.unload()
    assert not engine.has_work
    with pytest.raises(EngineError, match="no model"):
        engine.submit(request("a"))


def test_engines_are_found_by_name() -> None:
    assert isinstance(create_engine("instant"), InstantEngine)
    assert {"instant", "steploop"} <= set(engine_names())


def test_an_unknown_engine_is_refused_with_the_known_names() -> None:
    with pytest.raises(EngineUnknownError, match=r"'warp'.*instant.*steploop"):
        create_engine("warp")


def test_finding_the_instant_engine_imports_no_torch() -> None:
    program = (
        "import sys; from sllm_tasks.engines.registry import create_engine; create_engine('instant');"
        "assert not {'torch', 'transformers', 'celery', 'redis', 'sqlalchemy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
