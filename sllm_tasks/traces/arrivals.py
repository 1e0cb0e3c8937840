"""When requests come: Gamma renewals per model, bent by the time of day and by clients that are on and off."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The grid on which intensities are given.
STEP_S = 60.0
_DAY_S = 86_400.0
#: The busiest hour of the conversations in Azure's 2024 trace.
_PEAK_S = 14 * 3_600.0


def renewal(rng: np.random.Generator, count: int, cv: float) -> Floats:
    """Place `count` events in (0, 1) with Gamma gaps of the given coefficient of variation.

    The gaps are those of a Gamma renewal process of which it is known how many events it had: Dirichlet. So the rate is
    exact, and the coefficient is what such a process shows in a stretch of that length (`expected_cv`).
    """
    if cv <= 0:
        even: Floats = (np.arange(count) + rng.random()) / max(count, 1)
        return even
    gaps = rng.gamma(1 / cv**2, size=count + 1)
    total = gaps.sum()
    if total <= 0:
        # Gaps of a very bursty process may all underflow: one burst, anywhere.
        return np.full(count, rng.random())
    places: Floats = np.cumsum(gaps[:-1]) / total
    return places


def expected_cv(count: int, cv: float) -> float:
    """The coefficient of variation of the gaps around `count` events that `renewal` places, on average."""
    if cv <= 0:
        return 0.0
    num_gaps = count + 1
    return math.sqrt((num_gaps - 1) / (num_gaps / cv**2 + 1))


def intensity(duration_s: float, *, swing: float, active: NDArray[np.bool_]) -> Floats:
    """Relative request rate in each step of the grid: a day's wave times whether the client is on.

    A swing of 0.4 lies between 0.6 and 1.4 of the mean. An inactive client that is never on is on throughout.
    """
    middle_s = (np.arange(num_steps(duration_s)) + 0.5) * STEP_S
    wave: Floats = 1 + swing * np.cos(2 * math.pi * (middle_s - _PEAK_S) / _DAY_S)
    rates: Floats = wave * active if active.any() else wave
    return rates


def num_steps(duration_s: float) -> int:
    """Steps of the grid that cover a duration."""
    return max(1, math.ceil(duration_s / STEP_S))


def sojourns(rng: np.random.Generator, duration_s: float, *, share: float, sojourn_s: float) -> NDArray[np.bool_]:
    """Draw in which steps a client is on: on for `sojourn_s` on average, and for `share` of all time."""
    steps = num_steps(duration_s)
    if share >= 1:
        return np.ones(steps, dtype=np.bool_)
    leave_on = min(1.0, STEP_S / sojourn_s)
    leave_off = min(1.0, leave_on * share / (1 - share))
    active = np.empty(steps, dtype=np.bool_)
    is_on = bool(rng.random() < share)
    for step, draw in enumerate(rng.random(steps)):
        active[step] = is_on
        if draw < (leave_on if is_on else leave_off):
            is_on = not is_on
    return active


def warp(places: Floats, rates: Floats, duration_s: float) -> Floats:
    """Move events from (0, 1) to seconds, so that they are as dense as the intensity says."""
    grid_s = np.minimum(np.arange(len(rates) + 1) * STEP_S, duration_s)
    mass = np.concatenate(([0.0], np.cumsum(rates * np.diff(grid_s))))
    # np.interp wants a rising abscissa; where the client is off the mass stands still.
    mass = mass + np.arange(len(mass)) * 1e-12 * mass[-1]
    seconds: Floats = np.interp(places * mass[-1], mass, grid_s)
    return seconds
