"""How long prompts and answers are: the quantiles of published data sets, and draws that follow them.

Sources: GSM8K test set (OpenAI, questions and answers counted with the GPT-2/OPT vocabulary); ShareGPT as filtered by
sarathi-serve, those of it that fit a context of 2,048 tokens, the paper's; Azure LLM inference 2023 (Microsoft, CC BY
4.0), whose answers in conversations are bimodal, so that no lognormal fits them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sllm_tasks.errors import TraceError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

#: How often pairs that exceed the context are dealt other answers, before the answer is cut as a server would.
_MAX_DEALS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthShape:
    """A distribution of lengths by its quantiles; between them the logarithm of the length is linear."""

    #: Shares in rising order, from 0 to 1, and the length in tokens at each.
    shares: tuple[float, ...]
    tokens: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(low < high for low, high in pairwise(self.shares))
        monotone = all(low <= high for low, high in pairwise(self.tokens))
        if not (len(self.shares) == len(self.tokens) >= 2 and rising and monotone and self.tokens[0] >= 1):
            raise TraceError("quantiles rise from share 0 to share 1 and from one token on")

    def draw(self, rng: np.random.Generator, count: int) -> Counts:
        """Draw lengths; stratified, so that a short trace has the shape of a long one."""
        shares = (rng.permutation(count) + rng.random(count)) / max(count, 1)
        logs = np.interp(shares, self.shares, np.log(self.tokens))
        return np.maximum(1, np.rint(np.exp(logs))).astype(np.int64)

    def share_below(self, tokens: Floats) -> Floats:
        """The share of lengths of at most so many tokens."""
        logs = np.log(np.maximum(tokens, 0.5))
        # Lengths that take up several quantiles have all of their share at their upper end.
        rising = np.log(self.tokens) + np.arange(len(self.tokens)) * 1e-9
        return np.interp(logs + len(self.tokens) * 1e-9, rising, self.shares, left=0.0, right=1.0)

    def mean(self) -> float:
        """The mean length in tokens."""
        total = 0.0
        for (low_share, low), (high_share, high) in pairwise(zip(self.shares, self.tokens, strict=True)):
            # The mean of a length whose logarithm is uniform between two quantiles.
            mean = low if high == low else (high - low) / math.log(high / low)
            total += (high_share - low_share) * mean
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthData:
    """Prompts and answers of one data set; in all of ours they are independent of each other."""

    name: str
    input: LengthShape
    output: LengthShape
    #: Tokens of prompt and answer together, at most.
    context: int

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Counts, Counts]:
        """Draw prompts and answers that fit the context together, without bending either distribution."""
        inputs, outputs = self.input.draw(rng, count), self.output.draw(rng, count)
        for _ in range(_MAX_DEALS):
            over = np.flatnonzero(inputs + outputs > self.context)
            if not len(over):
                break
            _deal_again(rng, inputs, outputs, over, self.context)
        return inputs, np.minimum(outputs, np.maximum(1, self.context - inputs))


def _deal_again(rng: np.random.Generator, inputs: Counts, outputs: Counts, over: Counts, context: int) -> None:
    """Exchange the answers of pairs that do not fit with those of others, where both then fit."""
    others = np.setdiff1d(np.arange(len(inputs)), over)
    num_swaps = min(len(over), len(others))
    over, others = rng.permutation(over)[:num_swaps], rng.permutation(others)[:num_swaps]
    fits = (inputs[over] + outputs[others] <= context) & (inputs[others] + outputs[over] <= context)
    over, others = over[fits], others[fits]
    outputs[over], outputs[others] = outputs[others], outputs[over]


_TWENTIETHS: Final = (0.0, 0.01, *(number / 20 for number in range(1, 20)), 0.975, 0.99, 1.0)
#: Where the last hundredth reaches far.
_TAILED: Final = (*_TWENTIETHS[:-1], 0.995, 0.998, 0.999, 1.0)
_PERCENTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


def _shape(shares: tuple[float, ...], *tokens: float) -> LengthShape:
    return LengthShape(shares=shares, tokens=tokens)


LENGTHS: Final[Mapping[str, LengthData]] = {
    data.name: data
    for data in (
        LengthData(
            name="gsm8k",
            input=_shape(_PERCENTILES, 16, 30, 41, 53, 68, 86, 98, 119, 182),
            output=_shape(_PERCENTILES, 24, 44, 65, 91, 122, 154, 174, 227, 302),
            context=2_048,
        ),
        LengthData(
            name="sharegpt",
            input=_shape(_PERCENTILES, 4, 18, 102, 528, 995, 1362, 1538, 1787, 2043),
            output=_shape(_PERCENTILES, 1, 33, 175, 375, 577, 778, 880, 985, 1024),
            context=2_048,
        ),
        LengthData(
            name="azure-conv",
            input=_shape(
                _TWENTIETHS,
                *(2, 29, 181, 207, 372, 387, 396, 403, 414, 703, 984, 1020, 1045),
                *(1071, 1097, 1130, 1189, 1315, 1876, 2734, 4083, 4092, 4142, 14050),
            ),
            output=_shape(
                _TWENTIETHS,
                *(7, 16, 41, 54, 67, 77, 85, 91, 96, 103, 113, 129, 151),
                *(177, 217, 384, 395, 400, 411, 424, 451, 522, 601, 1000),
            ),
            context=16_384,
        ),
        LengthData(
            name="azure-code",
            input=_shape(
                _TWENTIETHS,
                *(3, 17, 75, 147, 232, 385, 578, 770, 938, 1075, 1261, 1469, 1690),
                *(1909, 2163, 2433, 2744, 3192, 3920, 5187, 7303, 7435, 7436, 7437),
            ),
            output=_shape(
                _TAILED,
                *(6, 6, 6, 7, 7, 8, 9, 9, 10, 11, 12, 13, 14),
                *(16, 18, 20, 24, 29, 39, 55, 90, 145, 251, 359, 670, 825, 1899),
            ),
            context=16_384,
        ),
    )
}


def lengths_of(name: str) -> LengthData:
    """Find a data set by its name; raises TraceError."""
    if name not in LENGTHS:
        raise TraceError(f"there are lengths of {', '.join(LENGTHS)}, not of {name!r}")
    return LENGTHS[name]
