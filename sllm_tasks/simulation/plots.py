"""Plots of a study as PNG, by matplotlib where that is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sllm_tasks.errors import SimulationError
from sllm_tasks.simulation.study import Result, Study

try:
    # Without a display and without pyplot's global state.
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
except ImportError:
    Figure = None

#: What a preset may vary within one panel.
_AXES = {"rate_per_s": "requests per second", "gpus_per_node": "gpus per node", "num_models": "models"}


def check_plots(path: Path) -> None:
    """Raise SimulationError where nothing can be drawn, or not in the format that a file's name asks for."""
    if Figure is None:
        raise SimulationError("plots need matplotlib: pip install 'sllm-tasks[plots]'")
    formats = Figure().canvas.get_supported_filetypes()
    if _format_of(path) not in formats:
        raise SimulationError(f"{path}: plots can be written as {', '.join(sorted(formats))}")


def write_plots(study: Study, path: Path) -> None:
    """Draw P99 over what the preset varies: a row per data set, a column per size; raises SimulationError."""
    check_plots(path)
    sizes = list(dict.fromkeys(result.cell.size for result in study.results))
    rows = list(dict.fromkeys((result.cell.data, result.cell.placement) for result in study.results))
    figure = Figure(figsize=(4 * len(sizes) + 2, 3.2 * len(rows) + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), len(sizes), squeeze=False, sharey=True)
    for (data, placement), line in zip(rows, grid, strict=True):
        for size, axes in zip(sizes, line, strict=True):
            wanted = (size, data, placement)
            panel = [each for each in study.results if (each.cell.size, each.cell.data, each.cell.placement) == wanted]
            axes.set_title(", ".join(part for part in wanted if part))
            _draw(axes, panel)
        line[0].set_ylabel("P99 startup in s")
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside right center")
    try:
        figure.savefig(path, format=_format_of(path))
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error}") from error


def _format_of(path: Path) -> str:
    return path.suffix.removeprefix(".").lower() or "png"


# Any: matplotlib tells no types.
def _draw(axes: Any, results: Sequence[Result]) -> None:
    name = _varied(results)
    for system in dict.fromkeys(result.system for result in results):
        points = sorted(
            (getattr(result.cell, name), result.summary.p99_s) for result in results if result.system == system
        )
        axes.plot(*zip(*points, strict=True), marker="o", label=system)
    axes.set(xlabel=_AXES[name], xticks=sorted({getattr(each.cell, name) for each in results}), yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, alpha=0.3)


def _varied(results: Sequence[Result]) -> str:
    """Name the property of cells that differs most within a panel."""
    return max(_AXES, key=lambda name: len({getattr(result.cell, name) for result in results}))
