"""The order of tensors, and which gpu rank gets which: runs of layers, balanced by bytes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeAlias

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_EMBEDDING = re.compile(r"embed|(?:^|\.)w[tp]e\.")

#: Where a tensor stands: embeddings, the layers of each stack, the rest. Tensors with the same group stay together.
Group: TypeAlias = tuple[int, str, int]


def group_of(name: str) -> Group:
    """Find a tensor's group by its name."""
    if match := _LAYER.search(name):
        return 1, name[: match.start()], int(match[1])
    return (0 if _EMBEDDING.search(name) else 2), "", 0


def layers_of(names: Iterable[str]) -> set[Group]:
    """Find the layers that tensors belong to, those that belong to none left out."""
    return {group_of(name) for name in names if _LAYER.search(name)}


def split_evenly(sizes: Sequence[int], num_runs: int) -> list[int]:
    """Cut a sequence of sizes into runs so that the largest run is as small as possible.

    Returns the number of the run of each; none is empty unless there are fewer sizes than runs.
    """
    low, high = max(sizes, default=0), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if _fill(sizes, middle)[-1] < num_runs:
            high = middle
        else:
            low = middle + 1
    runs = _fill(sizes, low) if sizes else []
    while runs and runs[-1] + 1 < min(num_runs, len(sizes)):
        _split_largest(sizes, runs)
    return runs


def _fill(sizes: Sequence[int], capacity: int) -> list[int]:
    runs, run, filled = [], 0, 0
    for size in sizes:
        if filled and filled + size > capacity:
            run, filled = run + 1, 0
        filled += size
        runs.append(run)
    return runs


def _split_largest(sizes: Sequence[int], runs: list[int]) -> None:
    """Halve the largest run that has more than one member."""
    members = {run: [place for place, other in enumerate(runs) if other == run] for run in set(runs)}
    places = max(
        (places for places in members.values() if len(places) > 1),
        key=lambda places: sum(sizes[place] for place in places),
    )
    halves = _fill_halves([sizes[place] for place in places])
    for place in range(places[halves], len(runs)):
        runs[place] += 1


def _fill_halves(sizes: Sequence[int]) -> int:
    """Where to cut a sequence so that the larger half is as small as possible."""
    total = sum(sizes)
    return min(range(1, len(sizes)), key=lambda cut: max(sum(sizes[:cut]), total - sum(sizes[:cut])))
