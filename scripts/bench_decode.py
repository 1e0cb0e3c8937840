"""Measure decoding: sixteen jobs together, one after another, and in transformers' own continuous batching.

All three run the same prompts greedily on the demo Llama, in rounds of alternating order.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from tokenizers import Tokenizer
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from loaders.checkpoint import load
from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.demo_checkpoints import make_llama
from sllm_tasks.engines.base import EngineFailure, EngineLimits, EngineRequest, EngineToken
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import SamplingParams

_CONTEXT = 512

#: Token ids of each job's output, in the order of the prompts.
Outputs = list[list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    num_jobs: int
    num_tokens: int
    num_rounds: int
    device: str


def _prompts(tokenizer: Tokenizer, num_jobs: int) -> list[list[int]]:
    """Make prompts of 5 to 60 tokens: one to ten sums in a row."""
    chosen = random.Random(0)
    numbers = ("one", "two", "three", "seven", "twelve", "twenty-four", "thirty")
    texts = [
        " ".join(f"{chosen.choice(numbers)} plus {chosen.choice(numbers)} is" for _ in range(1 + index % 10))
        for index in range(num_jobs)
    ]
    return [tokenizer.encode(text).ids for text in texts]


class _StepLoop:
    """Our engine with the product's default limits."""

    def __init__(self, checkpoint: Path, settings: Settings) -> None:
        self._num_tokens = settings.num_tokens
        self._engine = StepLoopEngine()
        self._engine.load(checkpoint, (settings.device,), EngineLimits(max_jobs=settings.num_jobs, context=_CONTEXT))

    def together(self, prompts: Sequence[list[int]]) -> Outputs:
        outputs: dict[str, list[int]] = {str(index): [] for index in range(len(prompts))}
        params = SamplingParams(max_tokens=self._num_tokens, seed=0, ignore_eos=True)
        for job_id, prompt in zip(outputs, prompts, strict=True):
            self._engine.submit(EngineRequest(job_id=job_id, token_ids=tuple(prompt), params=params))
        while self._engine.has_work:
            for event in self._engine.poll():
                if isinstance(event, EngineFailure):
                    raise SystemExit(f"job {event.job_id} failed: {event.message}")
                if isinstance(event, EngineToken):
                    outputs[event.job_id].append(event.token_id)
        return list(outputs.values())

    def one_by_one(self, prompts: Sequence[list[int]]) -> Outputs:
        return [self.together([prompt])[0] for prompt in prompts]


@contextmanager
def _transformers(checkpoint: Path, settings: Settings) -> Iterator[Callable[[Sequence[list[int]]], Outputs]]:
    """Run the continuous batching of transformers; its manager is started once, and idle between the rounds."""
    model = load(checkpoint, settings.device).model()
    generation = GenerationConfig(do_sample=False, max_new_tokens=settings.num_tokens, eos_token_id=-1, pad_token_id=0)
    # Its documentation advises against block sharing for short prompts with long outputs. The number of blocks is
    # inferred for GPUs only; two per job are more than these jobs fill.
    batching = ContinuousBatchingConfig(
        num_blocks=2 * settings.num_jobs, max_batch_tokens=_CONTEXT, allow_block_sharing=False
    )
    with model.continuous_batching_context_manager(  # type: ignore[operator] # hidden from checkers by nn.Module
        generation_config=generation, continuous_batching_config=batching
    ) as manager:

        def run(prompts: Sequence[list[int]]) -> Outputs:
            ids = [manager.add_request(prompt, max_new_tokens=settings.num_tokens) for prompt in prompts]
            outputs: dict[str, list[int]] = {}
            while len(outputs) < len(ids):
                result = manager.get_result(timeout=60)
                if result is None or result.error is not None:
                    raise SystemExit(f"transformers' continuous batching failed: {result and result.error}")
                if result.is_finished():
                    outputs[result.request_id] = list(result.generated_tokens)
            return [outputs[request_id] for request_id in ids]

        yield run


def _measure(checkpoint: Path, settings: Settings) -> Report:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    prompts = _prompts(tokenizer, settings.num_jobs)
    ours = _StepLoop(checkpoint, settings)
    with _transformers(checkpoint, settings) as theirs:
        contestants = {"one after another": ours.one_by_one, "together": ours.together, "transformers": theirs}
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        outputs = {name: run(prompts) for name, run in contestants.items()}
        for round_index in range(settings.num_rounds):
            names = list(contestants)
            for name in names if round_index % 2 == 0 else reversed(names):
                start_s = time.perf_counter()
                if contestants[name](prompts) != outputs[name]:
                    raise SystemExit(f"{name}: the same prompts gave other tokens in another round")
                rates[name].append(settings.num_jobs * settings.num_tokens / (time.perf_counter() - start_s))
    texts = {name: [tokenizer.decode(token_ids) for token_ids in found] for name, found in outputs.items()}
    middle = {name: median(samples) for name, samples in rates.items()}
    return Report(
        settings={
            "jobs": settings.num_jobs,
            "tokens_per_job": settings.num_tokens,
            "rounds": settings.num_rounds,
            "device": settings.device,
            "threads": torch.get_num_threads(),
            "prefill_tokens_per_step": EngineLimits(max_jobs=1, context=1).prefill_tokens_per_step,
        },
        rows=[Row(name, "tokens/s", tuple(samples)) for name, samples in rates.items()],
        figures={
            "batched_over_serial": middle["together"] / middle["one after another"],
            "batched_equals_solo": _share_equal(texts["together"], texts["one after another"]),
            "batched_over_transformers": middle["together"] / middle["transformers"],
            "transformers_equals_solo": _share_equal(texts["transformers"], texts["one after another"]),
        },
    )


def _share_equal(left: Sequence[str], right: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(left, right, strict=True)) / len(left)


def main() -> None:
    """Measure how much faster jobs decode together than one after another."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", type=Path, help="a demo Llama that exists; otherwise one is trained first")
    parser.add_argument("--full", action="store_true", help="four times the tokens, twice the rounds")
    add_report_argument(parser)
    arguments = parser.parse_args()
    settings = Settings(
        num_jobs=arguments.jobs,
        num_tokens=arguments.tokens * (4 if arguments.full else 1),
        num_rounds=arguments.rounds * (2 if arguments.full else 1),
        device=arguments.device,
    )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = arguments.checkpoint or make_llama(Path(scratch) / "demo-llama")
        finish(_measure(checkpoint, settings), arguments.json)


if __name__ == "__main__":
    main()
