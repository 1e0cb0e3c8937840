"""What the level `exact` costs: both levels decode and prefill the same prompts in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from scripts.bench_report import Row
from scripts.exact_runs import DTYPES
from scripts.moves.checkpoints import make_llama_to_time
from sllm_tasks.engines.base import EngineFailure, EngineLimits, EngineRequest
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import Exactness, SamplingParams

_BATCHES = (1, 4, 8)
_CONTEXT = 512
_PROMPT_TOKENS = 64
_HIDDEN_SIZE, _VOCAB_SIZE = 1024, 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long it may take."""

    num_rounds: int
    num_steps: int
    prefill_tokens: int
    num_layers: int


_Times = dict[Exactness, list[float]]


def measure(scratch: Path, effort: Effort, device: str) -> tuple[list[Row], dict[str, float]]:
    """Time both levels; a slowdown is the median of what each round says, that of decoding the worst batch's."""
    rows: list[Row] = []
    figures: dict[str, float] = {}
    for dtype_name, dtype in DTYPES.items():
        path = make_llama_to_time(
            scratch / f"timed-{dtype_name}",
            hidden_size=_HIDDEN_SIZE,
            num_layers=effort.num_layers,
            vocab_size=_VOCAB_SIZE,
            dtype=dtype,
        )
        engines = {Exactness.TOKEN: StepLoopEngine(), Exactness.EXACT: ExactEngine()}
        limits = EngineLimits(max_jobs=max(_BATCHES), context=_CONTEXT)
        for level, engine in engines.items():
            engine.load(path, (device,), limits)
            if engine.equality_class().exactness is not level:
                raise SystemExit(f"{dtype_name}: {engine.equality_class().downgrade}")
        slowdowns = []
        for batch in _BATCHES:
            times = _in_turn(engines, effort, partial(_decode_s, batch=batch, num_steps=effort.num_steps))
            slowdowns.append(_slowdown(times))
            rows += _rows(f"{dtype_name} decode, batch {batch}", times)
        prefill = _in_turn(engines, effort, lambda engine: _prefill_s(engine, effort.prefill_tokens))
        rows += _rows(f"{dtype_name} prefill of {effort.prefill_tokens}", prefill)
        prefix = "" if dtype_name == "bf16" else f"{dtype_name}_"
        figures[f"{prefix}exact_slowdown"] = max(slowdowns)
        figures[f"{prefix}exact_prefill_slowdown"] = _slowdown(prefill)
        for engine in engines.values():
            engine.unload()
    return rows, figures


def _in_turn(
    engines: dict[Exactness, StepLoopEngine], effort: Effort, time_one: Callable[[StepLoopEngine], float]
) -> _Times:
    times: _Times = {level: [] for level in engines}
    for engine in engines.values():
        time_one(engine)
    for round_index in range(effort.num_rounds):
        levels = list(engines)
        for level in levels if round_index % 2 == 0 else reversed(levels):
            times[level].append(time_one(engines[level]))
    return times


def _slowdown(times: _Times) -> float:
    pairs = zip(times[Exactness.EXACT], times[Exactness.TOKEN], strict=True)
    return median(exact / token for exact, token in pairs)


def _rows(name: str, times: _Times) -> list[Row]:
    return [Row(f"{name}: {level}", "ms", tuple(1000 * time_s for time_s in found)) for level, found in times.items()]


def _decode_s(engine: StepLoopEngine, batch: int, num_steps: int) -> float:
    """Time one step of so many jobs, each behind a prompt."""
    for index in range(batch):
        engine.submit(_request(f"job {index}", _PROMPT_TOKENS, num_steps + batch + 8))
    while engine.stats().num_running < batch:
        _poll(engine)
    start_s = time.perf_counter()
    for _ in range(num_steps):
        _poll(engine)
    taken_s = time.perf_counter() - start_s
    for index in range(batch):
        engine.abort(f"job {index}")
    _poll(engine)
    return taken_s / num_steps


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
