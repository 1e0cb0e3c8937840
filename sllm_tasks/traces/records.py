"""What a trace is: requests in the order of their arrival, checked once and then trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

from sllm_tasks.errors import TraceError

#: More than any model's context; what is above is a damaged file.
_MAX_TOKENS: Final = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One request: when it came, for which model, and how long its prompt and its answer are in tokens."""

    #: Since the start of the trace.
    arrival_s: float
    model: str
    input_tokens: int
    output_tokens: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.arrival_s) and self.arrival_s >= 0):
            raise TraceError(f"arrival_s is a number of seconds that is not negative, not {self.arrival_s!r}")
        if not self.model:
            raise TraceError("a request names its model")
        check_tokens("input_tokens", self.input_tokens)
        check_tokens("output_tokens", self.output_tokens)


def check_tokens(name: str, count: int) -> None:
    """Raise TraceError for what is no length of a prompt or an answer."""
    # A file, or a careless caller, may hand over a float, and NaN compares with nothing.
    if type(count) is not int or not 1 <= count <= _MAX_TOKENS:
        raise TraceError(f"{name} is a whole number from 1 to {_MAX_TOKENS}, not {count!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Requests of one stretch of time."""

    name: str
    #: At least the last arrival; time without requests at the end counts.
    duration_s: float
    #: In the order of their arrival.
    requests: tuple[TraceRequest, ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.duration_s) and self.duration_s > 0):
            raise TraceError(f"duration_s is a positive number of seconds, not {self.duration_s!r}")
        for number, (first, second) in enumerate(pairwise(self.requests), start=2):
            if second.arrival_s < first.arrival_s:
                raise TraceError(f"request {number} arrives before the one above it")
        if self.requests and self.requests[-1].arrival_s > self.duration_s:
            raise TraceError(f"the last request arrives after the trace's end at {self.duration_s:g} s")

    @property
    def rate_per_s(self) -> float:
        """Requests per second, on average."""
        return len(self.requests) / self.duration_s

    @property
    def models(self) -> frozenset[str]:
        """Every model that a request names."""
        return frozenset(request.model for request in self.requests)

    def check_models(self, known: frozenset[str]) -> None:
        """Raise TraceError unless all of its models are among those known."""
        if unknown := sorted(self.models - known):
            raise TraceError(f"trace {self.name} asks for models that are not there: {', '.join(unknown[:5])}")

    def at_rate(self, rate_per_s: float) -> Trace:
        """The same requests, faster or slower: what a trace becomes when it is scaled to a wanted rate."""
        if not (math.isfinite(rate_per_s) and rate_per_s > 0):
            raise TraceError(f"a rate is a positive number of requests per second, not {rate_per_s!r}")
        if not self.requests:
            return self
        factor = self.rate_per_s / rate_per_s
        return replace(
            self,
            duration_s=self.duration_s * factor,
            requests=tuple(replace(request, arrival_s=request.arrival_s * factor) for request in self.requests),
        )
