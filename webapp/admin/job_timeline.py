"""Where the time of a job went, as parts of a bar; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A phase of a job."""

    name: str
    ms: int
    #: Of the whole, in percent.
    begin: float
    width: float


def timeline(timings_ms: Mapping[str, int | None], age_ms: int) -> tuple[Part, ...]:
    """Cut a job's life into phases; one that has not ended goes on until now, `age_ms` after its acceptance."""
    whole = max(1, timings_ms["total"] if timings_ms["total"] is not None else age_ms)
    lengths = _lengths(timings_ms, whole)
    parts, begin = [], 0
    for name, length in lengths:
        if length > 0:
            parts.append(Part(name=name, ms=length, begin=100 * begin / whole, width=100 * length / whole))
        begin += max(0, length)
    return tuple(parts)


def _lengths(timings_ms: Mapping[str, int | None], whole: int) -> list[tuple[str, int]]:
    lengths: list[tuple[str, int]] = []
    spent = 0
    for name in ("queued", "placing", "loading"):
        length = timings_ms[name]
        if length is None:
            return [*lengths, (name, whole - spent)]
        lengths.append((name, length))
        spent += length
    first = timings_ms["first_token"]
    if first is None:
        return [*lengths, ("prefill", whole - spent)]
    return [*lengths, ("prefill", first - spent), ("decoding", whole - max(first, spent))]
