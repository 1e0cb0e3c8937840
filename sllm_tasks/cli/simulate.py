"""`sllm simulate`: what a cluster would do, under our policy and under others; needs no cluster and no settings."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from sllm_tasks.cli.output import note, show_list
from sllm_tasks.cli.paths import ResultFile
from sllm_tasks.simulation.load_orders import compare_orders
from sllm_tasks.simulation.page import write_page
from sllm_tasks.simulation.plots import check_plots, write_plots
from sllm_tasks.simulation.policies.registry import SYSTEMS, compared_in, system_of
from sllm_tasks.simulation.presets import NUM_TRACES, PRESETS, cells_of
from sllm_tasks.simulation.report import as_json, table, write_json
from sllm_tasks.simulation.study import run_study

#: Beyond these a machine has neither the memory for the traces of all cells nor for the processes.
_MAX_SEEDS, _MAX_WORKERS = 1_000, 1_024

_file = ResultFile()


@click.command()
@click.option("--preset", default="paper", show_default=True, help=f"One of {', '.join(PRESETS)}.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help=f"Of {', '.join(SYSTEMS)}; repeat it. Those that the preset is about unless given.",
)
@click.option("--seeds", type=click.IntRange(1, _MAX_SEEDS), help=f"Traces per cell; {NUM_TRACES} unless given.")
@click.option("--first-seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the first trace.")
@click.option("--quick", is_flag=True, help="Two short traces per cell: for a first look.")
@click.option("--workers", type=click.IntRange(1, _MAX_WORKERS), help="Processes; as many as cores unless given.")
@click.option("--load-orders", is_flag=True, help="Compare loading orders on one disk instead.")
@click.option("--json", "json_path", type=_file, help="Write all of it as JSON.")
@click.option("--html", "html_path", type=_file, help="Write a page with tables and drawings.")
@click.option("--plot", "plot_path", type=_file, help="Write plots as PNG (needs matplotlib).")
def simulate(  # noqa: PLR0913, PLR0917 - one argument per option
    preset: str,
    policies: tuple[str, ...],
    seeds: int | None,
    first_seed: int,
    workers: int | None,
    json_path: Path | None,
    html_path: Path | None,
    plot_path: Path | None,
    *,
    quick: bool,
    load_orders: bool,
) -> None:
    """Simulate a preset and print a table of startup latencies."""
    if load_orders:
        if html_path is not None or plot_path is not None:
            raise click.UsageError("with --load-orders there is neither a page nor a plot, only --json")
        _show_load_orders(json_path, num_loads=600 if quick else 6_000)
        return
    if plot_path is not None:
        check_plots(plot_path)
    # A system that is named twice is played once: its jobs would count twice in every figure.
    names = tuple(dict.fromkeys(system_of(name).name for name in policies)) or compared_in(preset)
    num_traces = seeds or (2 if quick else NUM_TRACES)
    cells = cells_of(preset, seeds=range(first_seed, first_seed + num_traces), is_quick=quick)
    study = run_study(preset, cells, names, workers=workers or len(os.sched_getaffinity(0)), progress=_tell_progress)
    click.echo(table(study))
    if json_path is not None:
        write_json(as_json(study, sys.argv[2:]), json_path)
    if html_path is not None:
        write_page(study, html_path)
    if plot_path is not None:
        write_plots(study, plot_path)


def _show_load_orders(json_path: Path | None, *, num_loads: int) -> None:
    rows = [
        asdict(order)
        for utilisation in (0.5, 0.7)
        for cv in (1.0, 4.0)
        for order in compare_orders(utilisation=utilisation, cv=cv, num_loads=num_loads, seed=0)
    ]
    columns = {
        "BUSY": lambda row: row["utilisation"],
        "CV": lambda row: row["cv"],
        "ORDER": lambda row: row["discipline"],
        "MEAN": lambda row: f"{row['mean_s']:.1f} s",
        "P99": lambda row: f"{row['p99_s']:.0f} s",
        "JAIN": lambda row: f"{row['jain']:.2f}",
    }
    show_list("table", rows, columns)
    if json_path is not None:
        write_json({"rows": rows}, json_path)


def _tell_progress(done: int, total: int) -> None:
    if done == total or done % 20 == 0:
        note(f"{done} of {total} simulations")
