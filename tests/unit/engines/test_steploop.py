"""The step loop: what a job gets depends on nothing but the job."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, MambaConfig

from loaders import checkpoint
from loaders.checkpoint import LoadedCheckpoint
from loaders.memory.pool import Pool
from loaders.memory.records import ContentKey
from loaders.reading.pipeline import ReadOptions
from loaders.source import open_source
from scripts.demo_checkpoints import TINY_CONFIGS, make_tiny
from sllm_tasks.engines.base import EngineError, EngineFailure, EngineLimits, EngineRequest, EngineToken
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.errors import ErrorCode, ModelUnusableError, StaleError
from sllm_tasks.jobs import FinishReason, SamplingParams

LIMITS = EngineLimits(max_jobs=4, context=120, prefill_tokens_per_step=32)
GREEDY = SamplingParams(max_tokens=12, seed=0, ignore_eos=True)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("tiny")
    return lambda architecture: make_tiny(root / architecture, architecture)


@pytest.fixture
def engine(tiny: Callable[[str], Path]) -> Iterator[StepLoopEngine]:
    engine = StepLoopEngine()
    engine.load(tiny("llama"), ("cpu",), LIMITS)
    yield engine
    engine.unload()


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(random.Random(seed * 1000 + length).choices(range(1, 300), k=length))


def request(job_id: str, token_ids: tuple[int, ...], params: SamplingParams = GREEDY) -> EngineRequest:
    return EngineRequest(job_id=job_id, token_ids=token_ids, params=params)


def drain(engine: StepLoopEngine) -> dict[str, list[EngineToken]]:
    tokens: dict[str, list[EngineToken]] = {}
    while engine.has_work:
        for event in engine.poll():
            assert isinstance(event, EngineToken), event
            tokens.setdefault(event.job_id, []).append(event)
    return tokens


def run(engine: StepLoopEngine, *requests: EngineRequest) -> dict[str, list[int]]:
    for each in requests:
        engine.submit(each)
    return {job_id: [token.token_id for token in tokens] for job_id, tokens in drain(engine).items()}


def mixed_requests() -> list[EngineRequest]:
    """Ten jobs of all lengths, half of them sampled, that join and leave at different steps."""
    lengths = [1, 60, 3, 17, 100, 2, 33, 8, 40, 5]
    params = [
        replace(GREEDY, max_tokens=5 + 4 * index, seed=index, temperature=0.9 * (index % 2), top_k=40 * (index % 3))
        for index in range(len(lengths))
    ]
    return [request(str(index), prompt(length), params[index]) for index, length in enumerate(lengths)]


@pytest.mark.parametrize("architecture", sorted(TINY_CONFIGS))
def test_a_job_in_a_batch_gets_the_tokens_that_it_gets_alone(tiny: Callable[[str], Path], architecture: str) -> None:
    engine = StepLoopEngine()
    engine.load(tiny(architecture), ("cpu",), LIMITS)
    requests = mixed_requests()
    together = run(engine, *requests)
    assert together == {each.job_id: run(engine, each)[each.job_id] for each in requests}
    engine.unload()


@pytest.mark.parametrize("architecture", sorted(TINY_CONFIGS))
def test_greedy_tokens_are_those_of_generate(tiny: Callable[[str], Path], architecture: str) -> None:
    engine = StepLoopEngine()
    engine.load(tiny(architecture), ("cpu",), LIMITS)
    model = AutoModelForCausalLM.from_pretrained(tiny(architecture))
    token_ids = torch.tensor([prompt(40)])
    generated = model.generate(
        token_ids,
        attention_mask=torch.ones_like(token_ids),
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert run(engine, request("a", prompt(40)))["a"] == generated[0, 40:].tolist()
    engine.unload()


def test_a_prompt_is_read_in_pieces_while_others_decode(engine: StepLoopEngine) -> None:
    engine.submit(request("short", prompt(4)))
    engine.poll()
    engine.submit(request("long", prompt(100)))
    seen = [{event.job_id for event in engine.poll()} for _ in range(6)]
    assert seen == [{"short"}, {"short"}, {"short"}, {"long"}, {"short", "long"}, {"short", "long"}]


def test_each_first_token_is_handed_out_before_anything_else_is_read_or_decoded(engine: StepLoopEngine) -> None:
    engine.submit(request("first", prompt(4)))
    engine.submit(request("beside", prompt(4)))
    engine.submit(request("long", prompt(40)))
    polls = [[(event.job_id, event.index) for event in engine.poll()] for _ in range(4)]
    # The budget of a step is 32 tokens, however many first tokens it pauses at.
    assert polls == [[("first", 0)], [("beside", 0)], [("first", 1), ("beside", 1)], [("long", 0)]]
    # Whoever comes next waits for those that run only when the step's budget is spent.
    engine.submit(request("late", prompt(4)))
    polls = [[(event.job_id, event.index) for event in engine.poll()] for _ in range(2)]
    assert polls == [[("late", 0)], [("first", 2), ("beside", 2), ("long", 1), ("late", 1)]]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("cut", [1, 7, 19])
def test_a_resumed_job_draws_the_tokens_it_would_have_drawn(
    engine: StepLoopEngine, temperature: float, cut: int
) -> None:
    params = replace(GREEDY, max_tokens=20, temperature=temperature, seed=5)
    whole = run(engine, request("a", prompt(9), params))["a"]
    resumed = EngineRequest(job_id="a", token_ids=prompt(9) + tuple(whole[:cut]), params=params, num_emitted=cut)
    engine.submit(resumed)
    engine.submit(request("beside", prompt(30), params))
    tokens = drain(engine)["a"]
    assert [token.token_id for token in tokens] == whole[cut:]
    assert [token.index for token in tokens] == list(range(cut, 20))
    assert tokens[-1].finish_reason is FinishReason.LENGTH


def test_an_aborted_job_gives_no_token_in_the_next_step_and_frees_its_place(engine: StepLoopEngine) -> None:
    requests = mixed_requests()[:4]
    alone = {each.job_id: run(engine, each)[each.job_id] for each in requests}
    for each in requests:
        engine.submit(each)
    events = engine.poll() + engine.poll() + engine.poll()
    engine.abort("1")
    engine.abort("unknown")
    assert "1" not in engine.snapshot()
    while engine.has_work:
        step = engine.poll()
        assert "1" not in {event.job_id for event in step}
        events += step
    for job_id in ("0", "2", "3"):
        assert [event.token_id for event in events if event.job_id == job_id] == alone[job_id]
    assert engine.stats().num_kv_tokens == 0


def test_a_job_can_come_back_right_after_its_abort(engine: StepLoopEngine) -> None:
    engine.submit(request("a", prompt(5)))
    engine.poll()
    engine.abort("a")
    assert len(run(engine, request("a", prompt(5)))["a"]) == 12


def test_end_of_sequence_ends_a_job_unless_it_is_ignored(engine: StepLoopEngine) -> None:
    tokens = run(engine, request("a", prompt(9)))["a"]
    stopped = replace(GREEDY, stop_token_ids=(tokens[4],))
    engine.submit(request("a", prompt(9), stopped))
    events = drain(engine)["a"]
    assert [event.token_id for event in events] == tokens[: tokens.index(tokens[4]) + 1]
    assert events[-1].finish_reason is FinishReason.STOP
    assert engine.eos_token_ids() == {0}


def test_the_context_ends_a_job(engine: StepLoopEngine) -> None:
    engine.submit(request("a", prompt(100), replace(GREEDY, max_tokens=500)))
    engine.submit(request("b", prompt(30), replace(GREEDY, max_tokens=500)))
    tokens = drain(engine)
    assert [len(tokens["a"]), len(tokens["b"])] == [20, 90]
    assert tokens["a"][-1].finish_reason is tokens["b"][-1].finish_reason is FinishReason.LENGTH


def test_a_job_that_cannot_run_fails_alone(engine: StepLoopEngine) -> None:
    alone = run(engine, request("good", prompt(9)))["good"]
    engine.submit(request("too long", prompt(120)))
    engine.submit(request("unknown token", (5, 300)))
    engine.submit(request("good", prompt(9)))
    events = []
    while engine.has_work:
        events += engine.poll()
    failures = {event.job_id: event.message for event in events if isinstance(event, EngineFailure)}
    assert failures.keys() == {"too long", "unknown token"}
    assert "no room in a context of 120" in failures["too long"]
    assert "not between 0 and 299" in failures["unknown token"]
    assert [event.token_id for event in events if isinstance(event, EngineToken)] == alone


def test_no_memory_for_one_prompt_fails_that_job_alone(engine: StepLoopEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = run(engine, request("good", prompt(9)))["good"]
    model = engine._loaded.model
    prefill = model.prefill

    def prefill_without_memory(state: object, token_ids: list[int]) -> torch.Tensor:
        if len(token_ids) == 20:
            raise torch.OutOfMemoryError("no memory")
        return prefill(state, token_ids)

    monkeypatch.setattr(model, "prefill", prefill_without_memory)
    engine.submit(request("good", prompt(9)))
    engine.submit(request("bad", prompt(20)))
    events = []
    while engine.has_work:
        events += engine.poll()
    failures = [event for event in events if isinstance(event, EngineFailure)]
    assert [(failure.job_id, failure.out_of_memory) for failure in failures] == [("bad", True)]
    assert [event.token_id for event in events if event.job_id == "good"] == alone


@pytest.mark.parametrize("error", [TypeError, ValueError, IndexError, KeyError, AttributeError, RuntimeError])
def test_what_a_models_code_raises_for_one_prompt_fails_that_job_alone(
    engine: StepLoopEngine, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    alone = run(engine, request("good", prompt(9)))["good"]
    forward = LlamaForCausalLM.forward

    def fails(model: LlamaForCausalLM, input_ids: torch.Tensor, **options: Any) -> Any:
        if input_ids.shape[-1] == 13:
            raise error("not like this")
        return forward(model, input_ids, **options)

    monkeypatch.setattr(LlamaForCausalLM, "forward", fails)
    engine.submit(request("bad", prompt(13)))
    engine.submit(request("good", prompt(9)))
    events = []
    while engine.has_work:
        events += engine.poll()
    assert [(event.job_id, event.out_of_memory) for event in events if isinstance(event, EngineFailure)] == [
        ("bad", False)
    ]
    assert [event.token_id for event in events if isinstance(event, EngineToken)] == alone


def test_no_memory_for_a_step_costs_the_longest_job_only(
    engine: StepLoopEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run(engine, request("short", prompt(9)))["short"]
    model = engine._loaded.model
    decode = model.decode

    def decode_without_memory(token_ids: list[int]) -> torch.Tensor:
        logits = decode(token_ids)
        if len(token_ids) == 2:
            raise torch.OutOfMemoryError("no memory, half-way")
        return logits

    monkeypatch.setattr(model, "decode", decode_without_memory)
    engine.submit(request("long", prompt(25)))
    engine.submit(request("short", prompt(9)))
    events = []
    while engine.has_work:
        events += engine.poll()
    assert [event.job_id for event in events if isinstance(event, EngineFailure)] == ["long"]
    assert [event.token_id for event in events if event.job_id == "short"] == alone


def test_log_probabilities_are_those_of_the_model(engine: StepLoopEngine, tiny: Callable[[str], Path]) -> None:
    engine.submit(request("a", prompt(9), replace(GREEDY, max_tokens=1, logprobs=3)))
    (token,) = drain(engine)["a"]
    logits = AutoModelForCausalLM.from_pretrained(tiny("llama"))(torch.tensor([prompt(9)])).logits[0, -1]
    expected = logits.log_softmax(-1).topk(3)
    assert [token_id for token_id, _ in token.top] == expected.indices.tolist()
    assert [logprob for _, logprob in token.top] == pytest.approx(expected.values.tolist(), abs=1e-5)
    assert token.logprob == token.top[0][1]


def test_stats_and_snapshot_tell_what_the_engine_holds(engine: StepLoopEngine) -> None:
    for index in range(6):
        engine.submit(request(str(index), prompt(5)))
    first = [event for _ in range(4) for event in engine.poll()]
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.max_kv_tokens) == (4, 2, 480)
    # Prompts; the first tokens are fed by the next step.
    assert stats.num_kv_tokens == 4 * 5
    assert engine.snapshot()["0"] == prompt(5) + tuple(event.token_id for event in first if event.job_id == "0")
    assert engine.snapshot()["5"] == prompt(5)


def test_jobs_may_be_submitted_and_aborted_from_other_threads(engine: StepLoopEngine) -> None:
    def submit(start: int) -> None:
        for index in range(start, start + 10):
            engine.submit(request(str(index), prompt(3)))
            if index % 3 == 0:
                engine.abort(str(index))

    threads = [threading.Thread(target=submit, args=(start,)) for start in (0, 10, 20)]
    for thread in threads:
        thread.start()
    finished = set()
    while any(thread.is_alive() for thread in threads) or engine.has_work:
        finished |= {event.job_id for event in engine.poll() if event.finish_reason}
    assert finished >= {str(index) for index in range(30) if index % 3}


def test_a_model_with_a_recurrent_state_is_refused(tmp_path: Path) -> None:
    make_tiny(tmp_path)
    config = MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ModelUnusableError, match="recurrent state") as caught:
        StepLoopEngine().load(tmp_path, ("cpu",), LIMITS)
    assert caught.value.code is ErrorCode.CHECKPOINT_UNSUPPORTED


def test_load_errors_carry_the_code_that_users_see(tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    with pytest.raises(ModelUnusableError) as caught:
        StepLoopEngine().load(tmp_path / "nothing", ("cpu",), LIMITS)
    assert caught.value.code is ErrorCode.CHECKPOINT_MISSING
    with pytest.raises(ModelUnusableError, match="positions for 512") as caught:
        StepLoopEngine().load(tiny("opt"), ("cpu",), replace(LIMITS, context=513))
    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED


def test_a_load_may_go_well_another_time_when_others_found_wrong_what_it_shares_with_them(
    tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tiny("llama")
    with open_source(path) as source, Pool.open(tmp_path / "pool", 2 * source.plan.image_bytes) as pool:
        other = pool.lease(ContentKey(source.plan.key), source.plan.image_bytes)
        assert other is not None
        with other:
            # It is on its way to the content, and finds on the way that it is wrong.
            other.claim()

            def load(path: Path, *, with_model: bool) -> LoadedCheckpoint:
                return checkpoint.load(
                    path, pool=pool, with_model=with_model, options=ReadOptions(page_cache=False),
                    on_progress=lambda _: other.discard(),
                )  # fmt: skip

            with pytest.raises(StaleError, match="discarded"):
                StepLoopEngine().load(path, ("cpu",), LIMITS, load)


def test_an_unloaded_engine_holds_nothing(engine: StepLoopEngine) -> None:
    engine.submit(request("a", prompt(5)))
    engine.poll()
    engine.unload()
    engine.unload()
    assert not engine.has_work
    assert engine.poll() == []
    assert engine.stats().max_kv_tokens == 0
    with pytest.raises(EngineError, match="no model"):
        engine.submit(request("a", prompt(5)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", sorted(TINY_CONFIGS))
def test_on_a_gpu_too_a_job_gets_the_tokens_that_it_gets_alone(tiny: Callable[[str], Path], architecture: str) -> None:
    engine = StepLoopEngine()
    engine.load(tiny(architecture), ("cuda:0",), LIMITS)
    requests = mixed_requests()
    together = run(engine, *requests)
    assert together == {each.job_id: run(engine, each)[each.job_id] for each in requests}
    engine.unload()
