"""What jobs keep that move between two engines: each runs undisturbed first, and then moves at a random moment.

Both engines decode other jobs meanwhile, which come and go; the target takes over after one round or several. What
counts is every token of the job, and the bits of the logits behind every token that the target drew.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

from scripts.bench_report import Row
from scripts.demo_checkpoints import make_tiny
from scripts.exact_runs import (
    DTYPES,
    WATCHED,
    Agreement,
    Watched,
    compare,
    make_requests,
    run,
    run_moving,
    spread,
)
from sllm_tasks.engines.base import EngineLimits
from sllm_tasks.jobs import Exactness

ARCHITECTURES = ("llama", "opt", "gpt2", "qwen3")
BATCHES = (1, 2, 4, 8)
_VOCAB_SIZE = 300
_CONTEXT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How many jobs move between engines of each kind, and how long they are at most."""

    num_jobs: int
    max_tokens: int


def measure(scratch: Path, effort: Effort, device: str) -> tuple[list[Row], dict[str, float]]:
    """Compare every architecture, dtype, level and batch; a sample per architecture."""
    rows: list[Row] = []
    figures: dict[str, float] = {}
    for dtype_name, dtype in DTYPES.items():
        paths = [
            make_tiny(scratch / f"{architecture}-{dtype_name}", architecture, dtype=dtype)
            for architecture in ARCHITECTURES
        ]
        for level in Exactness:
            found = [_agreements(path, level, effort, seed, device) for seed, path in enumerate(paths)]
            rows += [
                Row(
                    f"{dtype_name} {level}, batch {batch}: steps with equal logits",
                    "share",
                    tuple(each[batch].num_equal_steps / max(1, each[batch].num_steps) for each in found),
                )
                for batch in BATCHES
            ]
            total = reduce(add, (each[batch] for each in found for batch in BATCHES))
            jobs, steps = total.num_equal_jobs / total.num_jobs, total.num_equal_steps / total.num_steps
            figures[f"{dtype_name}_{level}_moves"] = total.num_jobs
            if level is Exactness.EXACT:
                figures[f"{dtype_name}_exact_equal"] = min(jobs, steps)
                figures[f"{dtype_name}_exact_steps"] = total.num_steps
            else:
                # The default promises tokens, so jobs with equal tokens count; its logits are in the rows.
                figures["fp32_equal" if dtype_name == "fp32" else "bf16_default_equal"] = jobs
    return rows, figures


def _agreements(path: Path, level: Exactness, effort: Effort, seed: int, device: str) -> dict[int, Agreement]:
    """Run jobs undisturbed, and then let them move to an engine of each batch size."""
    chosen = random.Random(seed)
    requests = make_requests(chosen, effort.num_jobs, vocab_size=_VOCAB_SIZE, max_tokens=effort.max_tokens)
    company = make_requests(chosen, 2 * effort.num_jobs, vocab_size=_VOCAB_SIZE, max_tokens=effort.max_tokens)
    # Ids of company that is no job of ours come after them.
    company = company[effort.num_jobs :]
    with _engine(path, level, _limits(chosen, max(BATCHES)), device) as source:
        whole = run(source, spread(chosen, requests, over_steps=effort.max_tokens))
        found = {}
        for batch in BATCHES:
            # Over so many steps that most find room on the target before they have ended.
            over_steps = 2 * effort.max_tokens * effort.num_jobs // batch
            arrivals = spread(chosen, requests, over_steps=over_steps)
            beside = spread(chosen, company[:batch], over_steps=over_steps)
            with _engine(path, level, _limits(chosen, batch), device) as target:
                found[batch] = compare(whole, run_moving(chosen, source, target, arrivals, beside))
    return found


@contextmanager
def _engine(path: Path, level: Exactness, limits: EngineLimits, device: str) -> Iterator[Watched]:
    engine = WATCHED[level]()
    engine.load(path, (device,), limits)
    yield engine
    engine.unload()


def _limits(chosen: random.Random, max_jobs: int) -> EngineLimits:
    # Prompts are cut in other places on every engine.
    return EngineLimits(max_jobs=max_jobs, context=_CONTEXT, prefill_tokens_per_step=chosen.randint(11, 90))
