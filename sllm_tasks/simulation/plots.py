"""Plots of a study as PNG, by matplotlib where that is installed."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from sllm_tasks.errors import SimulationError
from sllm_tasks.simulation.study import Study

try:
    # Without a display and without pyplot's global state.
    from matplotlib.figure import Figure
except ImportError:
    Figure = None


def check_plots() -> None:
    """Raise SimulationError where nothing can be drawn."""
    if Figure is None:
        raise SimulationError("plots need matplotlib: pip install 'sllm-tasks[plots]'")


def write_plots(study: Study, path: Path) -> None:
    """Draw P99 over the rate, a panel per size and data set; raises SimulationError."""
    check_plots()
    panels = {
        key: list(results)
        for key, results in groupby(
            sorted(study.results, key=lambda result: (result.cell.size, result.cell.data)),
            lambda result: (result.cell.size, result.cell.data),
        )
    }
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    columns = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, ((size, data), results) in zip(columns, panels.items(), strict=True):
        for system in dict.fromkeys(result.system for result in results):
            points = sorted(
                (result.cell.rate_per_s, result.summary.p99_s) for result in results if result.system == system
            )
            axes.plot(*zip(*points, strict=True), marker="o", label=system)
        axes.set(title=f"{size}, {data}", xlabel="requests per second", ylabel="P99 startup in s", yscale="log")
    figure.axes[0].legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error}") from error
