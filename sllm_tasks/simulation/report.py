"""A study as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sllm_tasks.errors import SimulationError
from sllm_tasks.simulation.figures import figures
from sllm_tasks.simulation.policies.registry import system_of
from sllm_tasks.simulation.presets import PAPER_MODELS
from sllm_tasks.simulation.published import PUBLISHED, PUBLISHED_MEANS_S
from sllm_tasks.simulation.study import Result, Study

_HEADINGS = ("mean", "P50", "P95", "P99", "finished", "cold", "gpu hours", "published mean")


def table(study: Study) -> str:
    """One line per cell and system: startup in seconds, shares of jobs, hours of held gpus, and the paper's mean."""
    lines: list[Sequence[str]] = [("", *_HEADINGS)]
    cell = ""
    for result in study.results:
        if result.cell.name != cell:
            cell = result.cell.name
            lines.append((cell, *[""] * len(_HEADINGS)))
        lines.append(_line(result))
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS) + 1)]
    rows = ["  ".join((line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:]))).rstrip() for line in lines]
    rows += ["", *(f"{name}  {value:.3g}" for name, value in figures(study).items())]
    return "\n".join(rows)


def published_mean(result: Result) -> float | None:
    """The paper's number for a system in a cell, of whatever rate it was."""
    cell = result.cell
    is_the_papers = cell.num_models == PAPER_MODELS[cell.size] and cell.gpus_per_node == 4 and cell.placement is None
    return PUBLISHED_MEANS_S.get((cell.size, cell.data, result.system)) if is_the_papers else None


# Any: JSON.
def as_json(study: Study, arguments: Sequence[str]) -> dict[str, Any]:
    """The file that benchmarks of this project write: machine, command, settings, rows and figures."""
    return {
        "machine": _machine(),
        "command": shlex.join(["sllm", "simulate", *arguments]),
        "settings": {
            "preset": study.preset,
            "seeds": study.seeds,
            "first_seed": study.first_seed,
            "systems": _systems(study),
        },
        "rows": [_row(result) for result in study.results],
        "published": [asdict(published) for published in PUBLISHED],
        "figures": dict(figures(study)),
    }


def write_json(content: Mapping[str, Any], path: Path) -> None:
    """Write a report; raises SimulationError."""
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error}") from error


def _row(result: Result) -> dict[str, Any]:
    return {
        "name": f"{result.cell.name} | {result.system}",
        "unit": "s",
        # The mean startup of each seed.
        "samples": list(result.means_s),
        "p99_samples": list(result.p99s_s),
        **{name: value for name, value in asdict(result.cell).items() if name != "seed"},
        "system": result.system,
        **asdict(result.summary),
        "estimates": None if result.errors is None else asdict(result.errors),
        "published_mean_s": published_mean(result),
    }


def _systems(study: Study) -> dict[str, Any]:
    names = dict.fromkeys(result.system for result in study.results)
    systems = [system_of(name) for name in names]
    return {
        system.name: {
            "title": system.title,
            "load_order": system.loader.discipline.value,
            "load_start_s": system.loader.start_s,
            "keep_alive_s": system.keep_alive_s,
            "prewarms": system.prewarms,
            "waiting_worth": system.waiting_worth,
            "keep_alive_loads": system.keep_alive_loads,
            "fills_dram": system.fills_dram,
        }
        for system in systems
    }


def _machine() -> dict[str, object]:
    # It decides how long a study takes, and nothing else.
    return {
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _line(result: Result) -> Sequence[str]:
    summary, published_s = result.summary, published_mean(result)
    seconds = (summary.mean_s, summary.p50_s, summary.p95_s, summary.p99_s)
    return (
        f"  {result.system}",
        *(f"{value:.2f}" for value in seconds),
        f"{summary.finished:.1%}",
        f"{summary.cold:.1%}",
        f"{summary.held_gpu_s / 3600:.2f}",
        "" if published_s is None else f"{published_s:g}",
    )
