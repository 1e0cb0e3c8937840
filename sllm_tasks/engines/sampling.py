"""Choose the next token of every row from its logits, as docs/sampling.md specifies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cuda_kernels.device_gumbel import draw_tokens
from sllm_tasks.jobs import SamplingParams

#: Log probability of a token that cannot come, as the OpenAI API writes it.
_NO_CHANCE = -9999.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What is to be drawn for one row."""

    params: SamplingParams
    #: Number of tokens before the one to draw, prompt included.
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A chosen token, with log probabilities of the model itself when its job asked for them."""

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: torch.Tensor, draws: Sequence[Draw]) -> list[Choice]:
    """Choose one token per row of `logits` (rows, vocabulary); no row depends on another."""
    # torch.argmax gives the first of equal values, which is the rule of the lowest id.
    chosen = logits.argmax(dim=-1)
    sampled = [row for row, draw in enumerate(draws) if draw.params.temperature > 0]
    if sampled:
        chosen[sampled] = _sample(logits[sampled], [draws[row] for row in sampled])
    token_ids: list[int] = chosen.tolist()
    return [
        Choice(token_id=token_id)
        if draw.params.logprobs is None
        else _with_logprobs(logits[row], token_id, draw.params.logprobs)
        for row, (token_id, draw) in enumerate(zip(token_ids, draws, strict=True))
    ]


def _sample(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
    params = [draw.params for draw in draws]
    temperatures = [p.temperature for p in params]
    if any(p.top_k > 0 or p.top_p < 1 for p in params):
        divisors = torch.tensor(temperatures, dtype=torch.float64, device=logits.device).unsqueeze(1)
        logits, temperatures = _truncate(logits.double() / divisors, params), [1.0] * len(params)
    return draw_tokens(logits, temperatures, [p.seed for p in params], [draw.position for draw in draws])


def _truncate(scores: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    """Keep the `top_k` best of each row, then of those the fewest whose probability reaches `top_p`."""
    vocab_size = scores.shape[-1]
    # Stable, so that of equal scores the lowest id comes first.
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    limits = torch.tensor([[p.top_k if p.top_k > 0 else vocab_size] for p in params], device=scores.device)
    ordered = ordered.masked_fill(torch.arange(vocab_size, device=scores.device) >= limits, -torch.inf)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    masses = torch.tensor([[p.top_p] for p in params], dtype=torch.float64, device=scores.device)
    # `before` of the best token is 0 only up to rounding; it stays whatever top_p is.
    dropped = (before >= masses) & (masses < 1)
    dropped[:, 0] = False
    return torch.full_like(scores, -torch.inf).scatter(-1, order, ordered.masked_fill(dropped, -torch.inf))


def _with_logprobs(logits: torch.Tensor, token_id: int, num_top: int) -> Choice:
    logprobs = logits.float().log_softmax(dim=-1)
    # Masked tokens, and logits that overflow: JSON has no such numbers.
    logprobs = logprobs.nan_to_num(nan=_NO_CHANCE, neginf=_NO_CHANCE)
    best = logprobs.topk(min(num_top, logprobs.shape[-1]))
    top = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Choice(token_id=token_id, logprob=float(logprobs[token_id]), top=tuple(top))
