"""A study as a page of its own: HTML with its drawings inside, nothing fetched from anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from math import log10
from pathlib import Path

from sllm_tasks.errors import SimulationError
from sllm_tasks.simulation.figures import figures
from sllm_tasks.simulation.report import published_mean
from sllm_tasks.simulation.study import Result, Study

_BAR_HEIGHT, _LABEL_WIDTH, _WIDTH = 18, 150, 640
#: The drawings' scale is logarithmic, from here to the timeout.
_LEAST_S, _MOST_S = 0.1, 300.0
_STYLE = (
    "body{font:15px system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;width:100%}th,td{padding:.2rem .6rem;text-align:right}"
    "th:first-child,td:first-child{text-align:left}tr+tr td{border-top:1px solid #ddd}"
    "svg{max-width:100%}.wide{overflow-x:auto}"
    "svg text{font:12px system-ui,sans-serif}.mean{fill:#3b6ea5}.tail{fill:#c9d8e8}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}tr+tr td{border-color:#444}"
    "svg text{fill:#ddd}.tail{fill:#3a4a5a}}"
)


def write_page(study: Study, path: Path) -> None:
    """Write the page; raises SimulationError."""
    cells = "".join(_cell(name, list(results)) for name, results in groupby(study.results, lambda each: each.cell.name))
    numbers = "".join(f"<tr><td>{escape(name)}</td><td>{value:.3g}</td></tr>" for name, value in figures(study).items())
    title = f"Simulated startup latencies, preset {escape(study.preset)}, {study.seeds} seeds from {study.first_seed}"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1><p>Dark bars end at the mean, light ones at the 99th "
        f"percentile; the scale is logarithmic from {_LEAST_S:g} s to {_MOST_S:g} s.</p>"
        f"<table>{numbers}</table>{cells}</body></html>\n"
    )
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error}") from error


def _cell(name: str, results: Sequence[Result]) -> str:
    rows = "".join(map(_row, results))
    heading = (
        "<tr><th>system</th><th>mean s</th><th>P50</th><th>P95</th><th>P99</th><th>finished</th><th>published</th></tr>"
    )
    return f'<h2>{escape(name)}</h2>{_drawing(name, results)}<div class="wide"><table>{heading}{rows}</table></div>'


def _row(result: Result) -> str:
    summary, published_s = result.summary, published_mean(result)
    seconds = (summary.mean_s, summary.p50_s, summary.p95_s, summary.p99_s)
    cells = [escape(result.system), *(f"{value:.2f}" for value in seconds), f"{summary.finished:.1%}"]
    cells.append("" if published_s is None else f"{published_s:g}")
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _drawing(name: str, results: Sequence[Result]) -> str:
    bars = []
    for number, result in enumerate(results):
        top = number * _BAR_HEIGHT
        bars.append(f'<text x="0" y="{top + 13}">{escape(result.system)}</text>')
        for kind, value_s in (("tail", result.summary.p99_s), ("mean", result.summary.mean_s)):
            box = f'x="{_LABEL_WIDTH}" y="{top + 2}" width="{_length(value_s):.0f}" height="{_BAR_HEIGHT - 4}"'
            bars.append(f'<rect class="{kind}" {box}/>')
    height = len(results) * _BAR_HEIGHT
    label = escape(f"Mean and 99th percentile of startup, {name}", quote=True)
    width = _LABEL_WIDTH + _WIDTH
    size = f'viewBox="0 0 {width} {height}" width="{width}"'
    return f'<svg role="img" aria-label="{label}" {size}>{"".join(bars)}</svg>'


def _length(value_s: float) -> float:
    share = log10(max(value_s, _LEAST_S) / _LEAST_S) / log10(_MOST_S / _LEAST_S)
    return _WIDTH * min(1.0, share)
