"""`sllm replay`: play a trace against a live cluster."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

import click

from sllm_tasks.cli.numbers import FiniteRange
from sllm_tasks.cli.output import note, output_option, show_list
from sllm_tasks.cli.paths import ResultFile
from sllm_tasks.client import AsyncClient
from sllm_tasks.errors import TraceError
from sllm_tasks.limits import MAX_LIFE_S
from sllm_tasks.replay import Percentiles, Replayed
from sllm_tasks.replay import replay as play
from sllm_tasks.traces.files import read_trace
from sllm_tasks.traces.records import Trace

#: Of a job, which has it as its deadline.
_TIMEOUT = FiniteRange(0, MAX_LIFE_S, min_open=True)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--rate", "rate_per_s", type=float, help="Scale the trace to so many requests/s.")
@click.option("--timeout", "timeout_s", type=_TIMEOUT, default=300.0, show_default=True, help="Of each job, seconds.")
@click.option("--json", "json_path", type=ResultFile(), help="Write all jobs as JSON.")
@output_option
def replay(file: Path, rate_per_s: float | None, timeout_s: float, json_path: Path | None, output: str) -> None:
    """Play a trace (`sllm trace generate`) and print how long starts and first tokens took."""
    trace = read_trace(file)
    if rate_per_s is not None:
        trace = trace.at_rate(rate_per_s)
    note(f"{len(trace.requests)} requests in {trace.duration_s:.0f} s")
    replayed = asyncio.run(_play(trace, timeout_s))
    if json_path is not None:
        _write(replayed, json_path)
    times = {"startup": replayed.startup, "first token": replayed.first_token, "sent late": replayed.lag}
    show_list(
        output,
        [_row(name, found, replayed.finished) for name, found in times.items()],
        {
            "TIME": lambda row: row["name"],
            "MEAN": lambda row: _seconds(row["mean_s"]),
            "P50": lambda row: _seconds(row["p50_s"]),
            "P95": lambda row: _seconds(row["p95_s"]),
            "P99": lambda row: _seconds(row["p99_s"]),
            "FINISHED": lambda row: f"{row['finished']:.1%}",
        },
    )


async def _play(trace: Trace, timeout_s: float) -> Replayed:
    async with AsyncClient() as client:
        return await play(client, trace, timeout_s=timeout_s)


def _row(name: str, found: Percentiles | None, finished: float) -> dict[str, object]:
    values = dict.fromkeys(("mean_s", "p50_s", "p95_s", "p99_s")) if found is None else asdict(found)
    return {"name": name, **values, "finished": finished}


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def _write(replayed: Replayed, path: Path) -> None:
    content = {"finished": replayed.finished, "jobs": [asdict(job) for job in replayed.jobs]}
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise TraceError(f"{path} cannot be written: {error}") from error
