"""The level `exact`: every logit is the same, bit for bit, in any batch and after any interruption."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scripts.demo_checkpoints import make_tiny
from scripts.exact_runs import (
    Arrival,
    WatchedExact,
    WatchedStepLoop,
    compare,
    interrupted,
    make_requests,
    run,
    spread,
)
from sllm_tasks.engines.base import EngineLimits, EngineRequest, EngineToken
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.memo import Memo
from sllm_tasks.engines.rows import arithmetic, probe
from sllm_tasks.jobs import Exactness, SamplingParams
from tests.support.forwards import noted_forwards

VOCAB_SIZE = 300
MAX_TOKENS = 12
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def limits(max_jobs: int) -> EngineLimits:
    # An uneven budget, so that prompts are cut in all sorts of places.
    return EngineLimits(max_jobs=max_jobs, context=120, prefill_tokens_per_step=23)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, torch.dtype], Path]:
    root = tmp_path_factory.mktemp("tiny")

    def make(architecture: str, dtype: torch.dtype) -> Path:
        path = root / f"{architecture}-{dtype}"
        return path if path.exists() else make_tiny(path, architecture, dtype=dtype)

    return make


def loaded(path: Path, max_jobs: int) -> WatchedExact:
    engine = WatchedExact()
    engine.load(path, ("cpu",), limits(max_jobs))
    assert engine.equality_class().exactness is Exactness.EXACT, engine.equality_class()
    return engine


@pytest.fixture(autouse=True)
def nothing_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process may have loaded the same weights."""
    monkeypatch.setattr("sllm_tasks.engines.exact._trials", Memo(8))


@DTYPES
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "opt", "gpt2", "gemma", "mixtral"])
def test_after_an_interruption_every_logit_is_what_it_would_have_been(
    tiny: Callable[[str, torch.dtype], Path], architecture: str, dtype: torch.dtype
) -> None:
    path, chosen = tiny(architecture, dtype), random.Random(architecture)
    requests = make_requests(chosen, 5, vocab_size=VOCAB_SIZE, max_tokens=MAX_TOKENS)
    source = loaded(path, max_jobs=3)
    whole = run(source, spread(chosen, requests, over_steps=12))
    company = [
        Arrival(step=chosen.randint(0, 20), request=request)
        for request in make_requests(chosen, 9, vocab_size=VOCAB_SIZE, max_tokens=MAX_TOKENS)[5:]
    ]
    for max_jobs in (2, 8):
        target = loaded(path, max_jobs)
        assert target.equality_class() == source.equality_class()
        resumed = run(target, spread(chosen, interrupted(chosen, requests, whole), over_steps=12) + company)
        agreement = compare(whole, resumed)
        assert agreement.num_jobs == agreement.num_equal_jobs == 5
        assert agreement.num_equal_steps == agreement.num_steps > 5
        target.unload()


@DTYPES
def test_the_default_level_differs_in_bits_so_that_comparing_them_means_something(
    tiny: Callable[[str, torch.dtype], Path], dtype: torch.dtype
) -> None:
    engine, chosen = WatchedStepLoop(), random.Random(0)
    engine.load(tiny("llama", dtype), ("cpu",), limits(4))
    requests = make_requests(chosen, 4, vocab_size=VOCAB_SIZE, max_tokens=MAX_TOKENS)
    whole = run(engine, spread(chosen, requests, over_steps=3))
    resumed = run(engine, spread(chosen, interrupted(chosen, requests, whole), over_steps=12))
    agreement = compare(whole, resumed)
    assert agreement.num_equal_steps < agreement.num_steps
    assert engine.equality_class().exactness is Exactness.TOKEN
    assert engine.equality_class().downgrade == ""


def test_an_aborted_prompt_gives_its_slot_back(tiny: Callable[[str, torch.dtype], Path]) -> None:
    engine = loaded(tiny("llama", torch.float32), max_jobs=1)
    request = EngineRequest(
        job_id="a", token_ids=tuple(range(1, 61)), params=SamplingParams(max_tokens=5, seed=0, ignore_eos=True)
    )
    for _ in range(5):
        engine.submit(request)
        engine.poll()
        engine.abort(request.job_id)
    engine.submit(request)
    events = []
    while engine.has_work:
        events += engine.poll()
    assert len(events) == 5
    assert all(isinstance(event, EngineToken) for event in events)


def test_weights_are_tried_at_their_first_load_alone_and_give_the_same_bits_at_the_next(
    tiny: Callable[[str, torch.dtype], Path], tmp_path: Path
) -> None:
    path, chosen = tiny("llama", torch.bfloat16), random.Random(7)
    requests = make_requests(chosen, 4, vocab_size=VOCAB_SIZE, max_tokens=MAX_TOKENS)
    arrivals = spread(chosen, requests, over_steps=6)
    with noted_forwards() as forwards:
        first = loaded(path, max_jobs=2)
        num_first = len(forwards)
        again = loaded(path, max_jobs=2)
        assert num_first == len(forwards) > 5
        assert again.equality_class() == first.equality_class()
        loaded(make_tiny(tmp_path / "tuned", "llama", dtype=torch.bfloat16, seed=1), max_jobs=2)
        assert len(forwards) == 2 * num_first
        loaded(path, max_jobs=3)
        assert len(forwards) == 3 * num_first
    assert run(again, arrivals) == run(first, arrivals)


def test_a_model_whose_rows_differ_here_is_decoded_at_the_default_level_and_says_so(
    tiny: Callable[[str, torch.dtype], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if this machine's products depended on how many rows they have.
    monkeypatch.setattr(arithmetic, "equal_sizes", lambda *_: (64, 8, 1))
    engine, plain = ExactEngine(), WatchedStepLoop()
    for each in (engine, plain):
        each.load(tiny("llama", torch.float32), ("cpu",), limits(2))
    equality_class = engine.equality_class()
    assert equality_class.exactness is Exactness.TOKEN
    assert "others among" in equality_class.downgrade
    assert equality_class.fingerprint == plain.equality_class().fingerprint
    request = make_requests(random.Random(2), 1, vocab_size=VOCAB_SIZE, max_tokens=MAX_TOKENS)[0]
    plain.submit(request)
    engine.submit(request)
    while engine.has_work:
        assert engine.poll() == plain.poll()


def test_a_model_that_computes_something_else_row_by_row_is_not_called_exact(
    tiny: Callable[[str, torch.dtype], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = probe.reference_logits
    monkeypatch.setattr("sllm_tasks.engines.exact.reference_logits", lambda *args: computed(*args) * 1.5)
    engine = ExactEngine()
    engine.load(tiny("llama", torch.float32), ("cpu",), limits(2))
    assert "in one piece" in engine.equality_class().downgrade


def test_fingerprints_differ_where_logits_do(tiny: Callable[[str, torch.dtype], Path], tmp_path: Path) -> None:
    other = make_tiny(tmp_path / "other", "llama", seed=1)
    first, second = loaded(tiny("llama", torch.float32), 2), loaded(other, 2)
    assert first.equality_class().fingerprint != second.equality_class().fingerprint


@pytest.mark.parametrize(
    ("num_rows", "sizes", "blocks"),
    [
        (1, (64, 16, 8), [(1, 8)]),
        (3, (16, 8, 4, 2, 1), [(3, 4)]),
        (5, (16, 8, 4, 2, 1), [(4, 4), (1, 1)]),
        (5, (16, 8, 4), [(4, 4), (1, 4)]),
        (6, (16, 8, 4), [(6, 8)]),
        (70, (64, 16, 8), [(64, 64), (6, 8)]),
        (23, (64, 16, 8), [(16, 16), (7, 8)]),
    ],
)
def test_rows_are_cut_into_blocks_of_known_sizes(
    num_rows: int, sizes: tuple[int, ...], blocks: list[tuple[int, int]]
) -> None:
    assert list(arithmetic.split(num_rows, sizes)) == blocks
