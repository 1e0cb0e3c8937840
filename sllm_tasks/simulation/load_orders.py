"""In which order loads should use a disk: the three disciplines, by themselves, under loads of three sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from sllm_tasks.simulation.clock import Clock
from sllm_tasks.simulation.links import Discipline, Link
from sllm_tasks.simulation.results import jain

#: Checkpoints of 7, 13 and 30 billion parameters, as often as the paper has models of them.
_SIZES_BYTES = (13.3e9, 25.7e9, 59.9e9)
_SHARES = (32 / 56, 16 / 56, 8 / 56)
_LINK_BYTES_PER_S = 6e9


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOrder:
    """How loads fared under one discipline."""

    discipline: Discipline
    #: Share of the time in which the disk is busy.
    utilisation: float
    #: Of the gaps between loads.
    cv: float
    mean_s: float
    p99_s: float
    #: Of slowdowns: how long a load took over what it takes alone.
    jain: float


def compare_orders(*, utilisation: float, cv: float, num_loads: int, seed: int) -> tuple[LoadOrder, ...]:
    """Play the same loads under every discipline."""
    rng = np.random.default_rng(seed)
    sizes = rng.choice(_SIZES_BYTES, size=num_loads, p=_SHARES)
    gap_s = float(np.dot(_SIZES_BYTES, _SHARES)) / _LINK_BYTES_PER_S / utilisation
    arrivals_s = np.cumsum(rng.gamma(1 / cv**2, cv**2 * gap_s, size=num_loads))
    orders = []
    for discipline in Discipline:
        took_s = _play(arrivals_s.tolist(), sizes.tolist(), discipline)
        slowdowns = [seconds * _LINK_BYTES_PER_S / size for seconds, size in zip(took_s, sizes.tolist(), strict=True)]
        orders.append(
            LoadOrder(
                discipline=discipline,
                utilisation=utilisation,
                cv=cv,
                mean_s=float(np.mean(took_s)),
                p99_s=float(np.percentile(took_s, 99)),
                jain=jain(slowdowns),
            )
        )
    return tuple(orders)


def _play(arrivals_s: list[float], sizes: list[float], discipline: Discipline) -> list[float]:
    clock = Clock()
    link = Link(clock, _LINK_BYTES_PER_S, discipline)
    took_s = [0.0] * len(sizes)

    def end(number: int) -> None:
        took_s[number] = clock.now_s - arrivals_s[number]

    for number, (arrival_s, size) in enumerate(zip(arrivals_s, sizes, strict=True)):
        clock.at(arrival_s, partial(link.send, size, partial(end, number)))
    clock.run()
    return took_s
