"""Replicas that stay as long as their model's past says, and come before their jobs."""

from __future__ import annotations

import random
from itertools import accumulate

from sllm_tasks.config import Settings
from sllm_tasks.policy.settings import PolicySettings
from tests.unit.simulation.scenes import play, request, scene

#: Every five minutes a job; a load takes 2.5 s from the SSD, 0.8 s from DRAM.
_CLOCKWORK = scene(*(request(300.0 * number) for number in range(8)))


def test_what_comes_like_clockwork_is_loaded_before_and_held_for_seconds() -> None:
    kept, before = (play(_CLOCKWORK, system) for system in ("ours-kept-600s", "ours-auto-prewarm"))
    assert [job.path for job in kept.jobs[1:]] == ["warm"] * 7
    assert [job.path for job in before.jobs[3:]] == ["warm"] * 5
    assert before.held_gpu_s < 0.1 * kept.held_gpu_s


def test_without_a_forecast_what_comes_seldom_is_loaded_anew_and_not_held() -> None:
    run = play(_CLOCKWORK, "ours-auto")
    assert "warm" not in {job.path for job in run.jobs}
    assert run.held_gpu_s < 0.1 * play(_CLOCKWORK, "ours-kept-600s").held_gpu_s


def test_the_more_waiting_is_worth_the_longer_idle_replicas_stay() -> None:
    chance = random.Random(0)
    arrivals = accumulate(chance.expovariate(1 / 60.0) for _ in range(60))
    seldom = scene(*(request(at_s) for at_s in arrivals))
    systems = ("ours-auto-prewarm", "ours-auto-prewarm-100", "ours-auto-prewarm-500")
    runs = [play(seldom, system) for system in systems]
    num_warm = [sum(job.path == "warm" for job in run.jobs) for run in runs]
    held_s = [run.held_gpu_s for run in runs]
    assert num_warm == sorted(num_warm)
    assert num_warm[0] < num_warm[-1]
    assert held_s == sorted(held_s)


def test_the_simulator_and_the_router_hold_waiting_worth_the_same_by_default() -> None:
    assert Settings().waiting_worth == PolicySettings().waiting_worth
