"""Which replicas of a gpu go so that enough bytes become free at the least cost: exact dynamic programming."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

#: Sets of replicas that are kept while there are more to look at. No gpu of ordinary size reaches it; beyond, the
#: cheapest sets go on, and the answer is a set that is enough but perhaps not the cheapest.
_MAX_SETS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """Something that can be freed."""

    id: str
    num_bytes: int
    cost_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Freed:
    """A set of items that is enough."""

    ids: tuple[str, ...]
    cost_s: float


def cheapest(items: Iterable[Item], needed_bytes: int) -> Freed | None:
    """Pick the set of at least `needed_bytes` with the least cost; None when all of them are not enough.

    Nothing in it could be spared. Of sets that cost the same, mostly the one that frees less.
    """
    items = sorted(items, key=lambda item: item.id)
    # Sets of which no other one frees as much (capped at what is needed) for less.
    sets: dict[int, tuple[float, int, tuple[str, ...]]] = {0: (0.0, 0, ())}
    for item in items:
        grown = dict(sets)
        for freed, (cost_s, total, ids) in sets.items():
            if freed == needed_bytes:
                continue
            key = min(needed_bytes, freed + item.num_bytes)
            found = (cost_s + item.cost_s, total + item.num_bytes, (*ids, item.id))
            if key not in grown or found < grown[key]:
                grown[key] = found
        sets = _undominated(grown)
    best = sets.get(needed_bytes)
    return None if best is None else _spared([item for item in items if item.id in best[2]], needed_bytes)


def _spared(chosen: list[Item], needed_bytes: int) -> Freed:
    """Leave out what need not go, the dearest first: what costs nothing may have come along."""
    surplus = sum(item.num_bytes for item in chosen) - needed_bytes
    needed = []
    for item in sorted(chosen, key=lambda item: (-item.cost_s, -item.num_bytes, item.id)):
        if item.num_bytes <= surplus:
            surplus -= item.num_bytes
        else:
            needed.append(item)
    return Freed(ids=tuple(sorted(item.id for item in needed)), cost_s=sum(item.cost_s for item in needed))


def _undominated(sets: dict[int, tuple[float, int, tuple[str, ...]]]) -> dict[int, tuple[float, int, tuple[str, ...]]]:
    """Drop sets that free no more than another one and cost as much or more."""
    kept: dict[int, tuple[float, int, tuple[str, ...]]] = {}
    least_s = float("inf")
    for freed in sorted(sets, reverse=True):
        if sets[freed][0] < least_s:
            kept[freed] = sets[freed]
            least_s = sets[freed][0]
    if len(kept) > _MAX_SETS:
        most = max(kept)
        cheap = sorted(kept, key=lambda freed: kept[freed][0])[: _MAX_SETS - 1]
        kept = {freed: kept[freed] for freed in {most, *cheap}}
    return kept
