"""Runs of one set of jobs, whole, interrupted and moved, with every logit that a token was drawn from, as bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import torch

from sllm_tasks.engines.base import EngineFailure, EngineRequest, EngineToken
from sllm_tasks.engines.exact import ExactEngine
from sllm_tasks.engines.steploop import StepLoopEngine
from sllm_tasks.jobs import Exactness, SamplingParams

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

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


Watched = WatchedStepLoop | WatchedExact

WATCHED: Mapping[Exactness, Callable[[], Watched]] = {
    Exactness.TOKEN: WatchedStepLoop,
    Exactness.EXACT: WatchedExact,
}


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


def run(engine: Watched, arrivals: Sequence[Arrival]) -> Ran:
    """Run jobs to their ends; raises RuntimeError when one fails."""
    engine.logits.clear()
    waiting = _Waiting(arrivals)
    tokens: dict[str, tuple[int, ...]] = {}
    while waiting or engine.has_work:
        for request in waiting.due():
            engine.submit(request)
        for token in _tokens(engine):
            tokens[token.job_id] = (*tokens.get(token.job_id, ()), token.token_id)
    return Ran(tokens=tokens, logits=dict(engine.logits))


class _Waiting:
    """Jobs that are still to come, step after step."""

    def __init__(self, arrivals: Sequence[Arrival]) -> None:
        self._arrivals = sorted(arrivals, key=lambda arrival: arrival.step)
        self._step = 0

    def __bool__(self) -> bool:
        return bool(self._arrivals)

    def due(self) -> Iterator[EngineRequest]:
        """Those of this step; the next call is the next step."""
        while self._arrivals and self._arrivals[0].step <= self._step:
            yield self._arrivals.pop(0).request
        self._step += 1


def _tokens(engine: Watched, read: set[str] | None = None) -> Iterator[EngineToken]:
    """Perform a step; jobs whose rounds are read are noted."""
    for event in engine.poll():
        if isinstance(event, EngineFailure):
            raise RuntimeError(f"{event.job_id}: {event.message}")
        if isinstance(event, EngineToken):
            yield event
        elif read is not None:
            read.add(event.job_id)


@dataclass(slots=True)
class _Move:
    """A job on its way: it begins behind so many tokens, and hands over when so many rounds are read."""

    request: EngineRequest
    after: int
    rounds_left: int
    tokens: list[int] = field(default_factory=list)
    has_begun: bool = False
    has_moved: bool = False

    @property
    def continued(self) -> EngineRequest:
        """The job as it goes on elsewhere."""
        ids = self.request.token_ids + tuple(self.tokens)
        return replace(self.request, token_ids=ids, num_emitted=len(self.tokens))


def run_moving(
    chosen: random.Random, source: Watched, target: Watched, arrivals: Sequence[Arrival], beside: Sequence[Arrival]
) -> Ran:
    """Run jobs that move from one engine to the other as workers move them, beside others on either.

    Returns what came of those that have moved, with the logits of the target; some end before.
    """
    target.logits.clear()
    moves = {
        arrival.request.job_id: _Move(
            arrival.request,
            after=chosen.randint(1, arrival.request.params.max_tokens - 1),
            rounds_left=chosen.randint(1, 3),
        )
        for arrival in arrivals
    }
    waiting, waiting_beside = _Waiting(arrivals), _Waiting(beside)
    while waiting or waiting_beside or source.has_work or target.has_work:
        for request in waiting.due():
            source.submit(request)
        for request in waiting_beside.due():
            target.submit(request)
        read: set[str] = set()
        for token in (*_tokens(source), *_tokens(target, read)):
            if (move := moves.get(token.job_id)) is not None:
                _take(move, token, target)
        for job_id in read:
            _go_on(moves[job_id], source, target)
    moved = {job_id: tuple(move.tokens) for job_id, move in moves.items() if move.has_moved}
    return Ran(tokens=moved, logits=dict(target.logits))


def _take(move: _Move, token: EngineToken, target: Watched) -> None:
    move.tokens.append(token.token_id)
    if token.finish_reason is not None:
        if not move.has_moved:
            target.abort(token.job_id)
    elif not move.has_begun and len(move.tokens) >= move.after:
        move.has_begun = True
        target.prefill(move.continued)


def _go_on(move: _Move, source: Watched, target: Watched) -> None:
    """The target has read a round: it gets another one, or the job."""
    move.rounds_left -= 1
    if len(move.tokens) == move.request.params.max_tokens:
        return
    if move.rounds_left > 0:
        target.prefill(move.continued)
    else:
        source.abort(move.request.job_id)
        target.submit(move.continued)
        move.has_moved = True


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
