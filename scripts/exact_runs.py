"""Runs of one set of jobs, whole and interrupted, with every logit that a token was drawn from, as bits."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import torch

from sllm_tasks.engines.base import EngineFailure, EngineRequest
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import SamplingParams

#: Digests of the logits behind which a token was drawn, by job and position.
Logits = Mapping[tuple[str, int], bytes]


class _Watching(StepLoopEngine):
    def __init__(self) -> None:
        super().__init__()
        self.logits: dict[tuple[str, int], bytes] = {}

    def _choose(self, logits: torch.Tensor, jobs: list[Any]) -> Any:
        rows = logits.contiguous().view(torch.uint8).cpu().numpy()
        for row, job in zip(rows, jobs, strict=True):
            digest = blake2b(row.tobytes(), digest_size=16).digest()
            self.logits[job.request.job_id, job.draw.position] = digest
        return super()._choose(logits, jobs)


class WatchedStepLoop(_Watching):
    """The default engine, watched."""


class WatchedExact(_Watching, ExactEngine):
    """The engine of the level `exact`, watched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A job that is submitted before a step."""

    step: int
    request: EngineRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What came of a run."""

    tokens: Mapping[str, tuple[int, ...]]
    logits: Logits


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How much of an interrupted run is as it was in the whole one."""

    num_jobs: int
    #: Jobs that got the same tokens.
    num_equal_jobs: int
    num_steps: int
    #: Steps after an interruption whose logits are equal bit for bit.
    num_equal_steps: int

    def __add__(self, other: Agreement) -> Agreement:
        """Count both."""
        return Agreement(
            num_jobs=self.num_jobs + other.num_jobs,
            num_equal_jobs=self.num_equal_jobs + other.num_equal_jobs,
            num_steps=self.num_steps + other.num_steps,
            num_equal_steps=self.num_equal_steps + other.num_equal_steps,
        )


def make_requests(chosen: random.Random, num_jobs: int, *, vocab_size: int, max_tokens: int) -> list[EngineRequest]:
    """Make jobs with prompts and outputs of many lengths; every other one is sampled."""
    return [
        EngineRequest(
            job_id=f"job {index}",
            token_ids=tuple(chosen.choices(range(1, vocab_size), k=chosen.randint(1, 2 * max_tokens))),
            params=SamplingParams(
                max_tokens=chosen.randint(max_tokens // 2, max_tokens),
                seed=chosen.randrange(1 << 30),
                temperature=0.9 * (index % 2),
                top_k=40 * (index % 4 == 1),
                ignore_eos=True,
            ),
        )
        for index in range(num_jobs)
    ]


def spread(chosen: random.Random, requests: Sequence[EngineRequest], *, over_steps: int) -> list[Arrival]:
    """Let jobs come at random steps, so that they join while others run and leave."""
    return [Arrival(step=chosen.randint(0, over_steps), request=request) for request in requests]


def interrupted(chosen: random.Random, requests: Sequence[EngineRequest], whole: Ran) -> list[EngineRequest]:
    """Make of each job one that has produced some tokens already, as if it came from elsewhere."""
    cut = []
    for request in requests:
        tokens = whole.tokens[request.job_id]
        num_emitted = chosen.randint(1, len(tokens) - 1)
        cut.append(
            replace(request, token_ids=request.token_ids + tokens[:num_emitted], num_emitted=num_emitted),
        )
    return cut


def run(engine: WatchedStepLoop | WatchedExact, arrivals: Sequence[Arrival]) -> Ran:
    """Run jobs to their ends; raises RuntimeError when one fails."""
    engine.logits.clear()
    waiting = sorted(arrivals, key=lambda arrival: arrival.step)
    tokens: dict[str, tuple[int, ...]] = {}
    step = 0
    while waiting or engine.has_work:
        while waiting and waiting[0].step <= step:
            engine.submit(waiting.pop(0).request)
        for event in engine.poll():
            if isinstance(event, EngineFailure):
                raise RuntimeError(f"{event.job_id}: {event.message}")
            tokens[event.job_id] = (*tokens.get(event.job_id, ()), event.token_id)
        step += 1
    return Ran(tokens=tokens, logits=dict(engine.logits))


def compare(whole: Ran, resumed: Ran) -> Agreement:
    """Compare what came after the interruptions; jobs that only one run knows are company and do not count."""
    jobs = whole.tokens.keys() & resumed.tokens.keys()
    steps = [key for key in resumed.logits if key[0] in jobs]
    return Agreement(
        num_jobs=len(jobs),
        num_equal_jobs=sum(whole.tokens[job][-len(resumed.tokens[job]) :] == resumed.tokens[job] for job in jobs),
        num_steps=len(steps),
        # A run that took another turn may have gone to positions that the whole one never saw.
        num_equal_steps=sum(whole.logits.get(key) == resumed.logits[key] for key in steps),
    )
