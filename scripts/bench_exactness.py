"""Measure what the level `exact` keeps, and what it costs.

Jobs are run whole on one engine, and once more on another one, interrupted at random tokens, at other times and among
other jobs. The logits behind every token after the interruption are compared as bits. Then both levels decode and
prefill the same prompts in turn.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from statistics import median

import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging as transformers_logging

from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.demo_checkpoints import make_tiny
from scripts.exact_runs import (
    Agreement,
    WatchedExact,
    WatchedStepLoop,
    compare,
    interrupted,
    make_requests,
    run,
    spread,
)
from sllm_tasks.engines.base import EngineFailure, EngineLimits, EngineRequest
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import Exactness, SamplingParams

_ARCHITECTURES = ("llama", "opt", "gpt2", "qwen3")
_BATCHES = (1, 2, 4, 8)
_TIMED_BATCHES = (1, 4, 8)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_VOCAB_SIZE = 300
_CONTEXT = 512
_PROMPT_TOKENS = 64

_LEVELS: dict[Exactness, Callable[[], WatchedStepLoop | WatchedExact]] = {
    Exactness.TOKEN: WatchedStepLoop,
    Exactness.EXACT: WatchedExact,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    num_jobs: int
    max_tokens: int
    num_rounds: int
    num_steps: int
    prefill_tokens: int
    num_layers: int
    device: str


def agreements(path: Path, level: Exactness, settings: Settings, seed: int) -> dict[int, Agreement]:
    """Run jobs whole, and then interrupted on an engine of each batch size."""
    chosen = random.Random(seed)
    requests = make_requests(chosen, settings.num_jobs, vocab_size=_VOCAB_SIZE, max_tokens=settings.max_tokens)
    company = make_requests(chosen, 2 * settings.num_jobs, vocab_size=_VOCAB_SIZE, max_tokens=settings.max_tokens)
    with _engine(path, level, _limits(chosen, max(_BATCHES)), settings.device) as source:
        whole = run(source, spread(chosen, requests, over_steps=settings.max_tokens))
    found = {}
    for batch in _BATCHES:
        # Ids of company that is no job of ours come after them.
        arrivals = [*interrupted(chosen, requests, whole), *company[settings.num_jobs :]]
        with _engine(path, level, _limits(chosen, batch), settings.device) as target:
            resumed = run(target, spread(chosen, arrivals, over_steps=2 * settings.max_tokens))
        found[batch] = compare(whole, resumed)
    return found


@contextmanager
def _engine(
    path: Path, level: Exactness, limits: EngineLimits, device: str
) -> Iterator[WatchedStepLoop | WatchedExact]:
    engine = _LEVELS[level]()
    engine.load(path, (device,), limits)
    yield engine
    engine.unload()


def _limits(chosen: random.Random, max_jobs: int) -> EngineLimits:
    # Prompts are cut in other places on every engine.
    return EngineLimits(max_jobs=max_jobs, context=_CONTEXT, prefill_tokens_per_step=chosen.randint(11, 90))


def equality(scratch: Path, settings: Settings) -> tuple[list[Row], dict[str, float]]:
    """Compare every architecture, dtype, level and batch; a sample per architecture."""
    rows: list[Row] = []
    figures: dict[str, float] = {}
    for dtype_name, dtype in _DTYPES.items():
        paths = [
            make_tiny(scratch / f"{architecture}-{dtype_name}", architecture, dtype=dtype)
            for architecture in _ARCHITECTURES
        ]
        for level in Exactness:
            found = [agreements(path, level, settings, seed) for seed, path in enumerate(paths)]
            rows += [
                Row(
                    f"{dtype_name} {level}, batch {batch}: steps with equal logits",
                    "share",
                    tuple(each[batch].num_equal_steps / each[batch].num_steps for each in found),
                )
                for batch in _BATCHES
            ]
            total = reduce(add, (each[batch] for each in found for batch in _BATCHES))
            jobs, steps = total.num_equal_jobs / total.num_jobs, total.num_equal_steps / total.num_steps
            if level is Exactness.EXACT:
                figures[f"{dtype_name}_exact_equal"] = min(jobs, steps)
                figures[f"{dtype_name}_exact_steps"] = total.num_steps
            else:
                # The default promises tokens, so jobs with equal tokens count; its logits are in the rows.
                figures["fp32_equal" if dtype_name == "fp32" else "bf16_default_equal"] = jobs
    return rows, figures


def make_llama_to_time(path: Path, num_layers: int, dtype: torch.dtype) -> Path:
    """Write a random Llama large enough that its matrices and not Python take the time."""
    make_tiny(path)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=num_layers,
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=dtype).save_pretrained(path)
    return path


def cost(scratch: Path, settings: Settings) -> tuple[list[Row], dict[str, float]]:
    """Time both levels in turn; a slowdown is the median of what each round says."""
    rows: list[Row] = []
    figures: dict[str, float] = {}
    for dtype_name, dtype in _DTYPES.items():
        path = make_llama_to_time(scratch / f"timed-{dtype_name}", settings.num_layers, dtype)
        engines = {Exactness.TOKEN: StepLoopEngine(), Exactness.EXACT: ExactEngine()}
        limits = EngineLimits(max_jobs=max(_TIMED_BATCHES), context=_CONTEXT)
        for level, engine in engines.items():
            engine.load(path, (settings.device,), limits)
            if engine.equality_class().exactness is not level:
                raise SystemExit(f"{dtype_name}: {engine.equality_class().downgrade}")
        slowdowns = []
        for batch in _TIMED_BATCHES:
            times = _in_turn(engines, settings.num_rounds, lambda engine, n=batch: _decode_s(engine, n, settings))
            slowdowns.append(_slowdown(times))
            rows += _rows(f"{dtype_name} decode, batch {batch}", times)
        prefill = _in_turn(engines, settings.num_rounds, lambda engine: _prefill_s(engine, settings.prefill_tokens))
        rows += _rows(f"{dtype_name} prefill of {settings.prefill_tokens}", prefill)
        prefix = "" if dtype_name == "bf16" else f"{dtype_name}_"
        figures[f"{prefix}exact_slowdown"] = max(slowdowns)
        figures[f"{prefix}exact_prefill_slowdown"] = _slowdown(prefill)
        for engine in engines.values():
            engine.unload()
    return rows, figures


_Times = dict[Exactness, list[float]]


def _in_turn(
    engines: dict[Exactness, StepLoopEngine], num_rounds: int, measure: Callable[[StepLoopEngine], float]
) -> _Times:
    times: _Times = {level: [] for level in engines}
    for engine in engines.values():
        measure(engine)
    for round_index in range(num_rounds):
        levels = list(engines)
        for level in levels if round_index % 2 == 0 else reversed(levels):
            times[level].append(measure(engines[level]))
    return times


def _slowdown(times: _Times) -> float:
    pairs = zip(times[Exactness.EXACT], times[Exactness.TOKEN], strict=True)
    return median(exact / token for exact, token in pairs)


def _rows(name: str, times: _Times) -> list[Row]:
    return [Row(f"{name}: {level}", "ms", tuple(1000 * time_s for time_s in found)) for level, found in times.items()]


def _decode_s(engine: StepLoopEngine, batch: int, settings: Settings) -> float:
    """Time one step of so many jobs, each behind a prompt."""
    for index in range(batch):
        engine.submit(_request(f"job {index}", _PROMPT_TOKENS, settings.num_steps + batch + 8))
    while engine.stats().num_running < batch:
        _poll(engine)
    start_s = time.perf_counter()
    for _ in range(settings.num_steps):
        _poll(engine)
    taken_s = time.perf_counter() - start_s
    _clear(engine, batch)
    return taken_s / settings.num_steps


def _prefill_s(engine: StepLoopEngine, num_tokens: int) -> float:
    """Time a prompt, up to its first and only token."""
    engine.submit(_request("job 0", num_tokens, 1))
    start_s = time.perf_counter()
    while engine.has_work:
        _poll(engine)
    return time.perf_counter() - start_s


def _request(job_id: str, num_tokens: int, max_tokens: int) -> EngineRequest:
    ids = tuple((7 * index + 1) % 8000 for index in range(num_tokens))
    params = SamplingParams(max_tokens=max_tokens, seed=0, ignore_eos=True)
    return EngineRequest(job_id=job_id, token_ids=ids, params=params)


def _poll(engine: StepLoopEngine) -> None:
    for event in engine.poll():
        if isinstance(event, EngineFailure):
            raise SystemExit(f"{event.job_id} failed: {event.message}")


def _clear(engine: StepLoopEngine, batch: int) -> None:
    for index in range(batch):
        engine.abort(f"job {index}")
    _poll(engine)


def measure(settings: Settings) -> Report:
    """Measure equality, then cost."""
    with tempfile.TemporaryDirectory() as scratch:
        parts: Sequence[tuple[list[Row], dict[str, float]]] = [
            equality(Path(scratch), settings),
            cost(Path(scratch), settings),
        ]
    return Report(
        settings={
            "architectures": " ".join(_ARCHITECTURES),
            "batches": " ".join(map(str, _BATCHES)),
            "jobs": settings.num_jobs,
            "tokens": settings.max_tokens,
            "rounds": settings.num_rounds,
            "timed_layers": settings.num_layers,
            "device": settings.device,
            "threads": torch.get_num_threads(),
        },
        rows=[row for rows, _ in parts for row in rows],
        figures={name: value for _, figures in parts for name, value in figures.items()},
    )


def settings_of(*, full: bool, device: str) -> Settings:
    """Settings of minutes, or of the whole measurement."""
    return Settings(
        num_jobs=12 if full else 4,
        max_tokens=64 if full else 16,
        num_rounds=11 if full else 5,
        num_steps=16 if full else 6,
        prefill_tokens=256 if full else 128,
        num_layers=16 if full else 6,
        device=device,
    )


def main() -> None:
    """Measure what the level `exact` keeps and what it costs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="longer jobs, more of them, a larger model, more rounds")
    add_report_argument(parser)
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    finish(measure(settings_of(full=arguments.full, device=arguments.device)), arguments.json)


if __name__ == "__main__":
    main()
