"""Replicas that stay as long as their model's past says, and come before their jobs."""

from __future__ import annotations

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
