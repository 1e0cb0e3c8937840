"""Compare keep-alive on a live cluster: fixed times, and `auto` with its loads by forecast, under the same arrivals.

Every pattern of arrivals is played for each keep-alive by a model of its own, at the same time on a cluster of two
nodes, each of whose gpus has room for all of them, so that nothing but keep-alive removes a replica. A start is cold
when its job waited for a load; what is held is the time from the load of a replica to its removal.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate, takewhile
from pathlib import Path
from statistics import fmean
from typing import Any

from sqlalchemy import select

from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.demo_checkpoints import make_opt
from scripts.live_cluster import LiveCluster
from scripts.waiting import wait_for_reports
from sllm_tasks.client import AsyncClient, Client
from sllm_tasks.config import load_settings
from sllm_tasks.jobs import StartKind
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.encoding import to_ms
from sllm_tasks.ledger.tables import JobRow
from sllm_tasks.livestate import LiveState
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.replay import replay
from sllm_tasks.traces.records import Trace, TraceRequest

#: Seconds, or `auto`.
_KEEP_ALIVES: tuple[float | str, ...] = (2.0, 30.0, "auto")
_PERIOD_S, _PAIR_PERIOD_S, _PAIR_GAP_S, _MEAN_GAP_S = 15.0, 40.0, 3.0, 20.0
#: Between models that have the same arrivals, so that their loads are not in each other's way.
_APART_S = 1.3
_GPU_BYTES = 2_000_000_000
_TIMEOUT_S = 60.0
_LOOK_S = 0.1


def arrivals(pattern: str, duration_s: float) -> list[float]:
    """When the jobs of a pattern come."""
    match pattern:
        case "clockwork":
            return [number * _PERIOD_S for number in range(int(duration_s / _PERIOD_S))]
        case "pairs":
            begins = [number * _PAIR_PERIOD_S for number in range(int(duration_s / _PAIR_PERIOD_S))]
            return [begin + gap for begin in begins for gap in (0.0, _PAIR_GAP_S)]
        case _:
            chance = random.Random(pattern)
            gaps = (chance.expovariate(1 / _MEAN_GAP_S) for _ in range(int(duration_s)))
            return list(takewhile(lambda at_s: at_s < duration_s, accumulate(gaps)))


_PATTERNS = ("clockwork", "pairs", "random")


def _model(pattern: str, keep_alive: float | str) -> str:
    return f"{pattern}-{keep_alive if keep_alive == 'auto' else f'{keep_alive:g}s'}"


def make_trace(duration_s: float) -> Trace:
    """All patterns for all keep-alives."""
    requests = []
    for pattern in _PATTERNS:
        for place, keep_alive in enumerate(_KEEP_ALIVES):
            times_s = [at_s + place * _APART_S for at_s in arrivals(pattern, duration_s)]
            model = _model(pattern, keep_alive)
            requests += [TraceRequest(arrival_s=at_s, model=model, input_tokens=8, output_tokens=8) for at_s in times_s]
    end_s = duration_s + len(_KEEP_ALIVES) * _APART_S
    return Trace(name="keep-alive", duration_s=end_s, requests=tuple(sorted(requests, key=lambda each: each.arrival_s)))


@contextmanager
def held(live: LiveState) -> Iterator[Mapping[str, float]]:
    """Count the seconds that replicas of each model are there."""
    seconds: defaultdict[str, float] = defaultdict(float)
    stopping = threading.Event()

    def look() -> None:
        last_s = time.monotonic()
        while not stopping.wait(_LOOK_S):
            now_s = time.monotonic()
            ids = [replica_id for gpu in live.fleet.gpus() for replica_id in live.fleet.replicas_on(gpu.id)]
            for order in live.fleet.replicas(ids):
                if order is not None:
                    seconds[order.replica.model] += now_s - last_s
            last_s = now_s

    thread = threading.Thread(target=look, name="look")
    thread.start()
    try:
        yield seconds
    finally:
        stopping.set()
        thread.join()


def _deploy(cluster: LiveCluster, folder: Path) -> None:
    source = str(make_opt(folder / "opt", num_layers=12))
    with Client(cluster.url, cluster.api_key) as client:
        for pattern in _PATTERNS:
            for keep_alive in _KEEP_ALIVES:
                operation = client.deploy(
                    _model(pattern, keep_alive), source, max_jobs=2, context=64, keep_alive_s=keep_alive
                )
                client.wait_for(operation, timeout=600)


def _starts(ledger: Database) -> dict[str, list[tuple[float, bool]]]:
    """Time until its prefill began, and whether it was cold, of each model's jobs in their order."""
    query = select(JobRow.model, JobRow.created_at, JobRow.timings_ms, JobRow.assignment).order_by(JobRow.id)
    found: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    with ledger.reading() as session:
        row: Any
        for row in session.execute(query):
            is_cold = (row.assignment or {}).get("start_kind") != StartKind.WARM
            found[row.model].append(((row.timings_ms["prefill_ms"] - to_ms(row.created_at)) / 1_000, is_cold))
    return found


def measure(cluster: LiveCluster, duration_s: float, waiting_worth: float) -> Report:
    """Play the trace and sum up by keep-alive."""
    settings, _ = load_settings(environ={"SLLM_HOME": str(cluster.home)})
    trace = make_trace(duration_s)

    async def play() -> None:
        async with AsyncClient(cluster.url, cluster.api_key) as client:
            replayed = await replay(client, trace, timeout_s=_TIMEOUT_S)
        if replayed.finished < 1:
            raise SystemExit(f"only {replayed.finished:.1%} of the jobs succeeded")

    with LiveState(settings.live_url) as live, held(live) as seconds:
        asyncio.run(play())
        wait_for_reports(live)
    ledger = Database(settings.ledger_url)
    starts = _starts(ledger)
    ledger.close()
    rows, figures = [], {}
    for pattern in (*_PATTERNS, ""):
        for keep_alive in _KEEP_ALIVES:
            names = [_model(each, keep_alive) for each in ([pattern] if pattern else _PATTERNS)]
            found = [start for name in names for start in starts[name]]
            name = names[0] if pattern else _model("all", keep_alive)
            rows.append(Row(f"{name}: startup", "s", tuple(startup_s for startup_s, _ in found)))
            figures[f"{name}_cold_share"] = fmean(is_cold for _, is_cold in found)
            figures[f"{name}_mean_startup_s"] = fmean(startup_s for startup_s, _ in found)
            figures[f"{name}_held_s"] = sum(seconds[each] for each in names)
    played = {"seconds": duration_s, "jobs": len(trace.requests), "waiting worth": waiting_worth}
    return Report(settings=played, rows=rows, figures=figures)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_report_argument(parser)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long jobs come (default: 300)")
    parser.add_argument(
        "--waiting-worth",
        type=float,
        default=PolicySettings().waiting_worth,
        help="seconds of an idle gpu that a second of waiting is worth, for `auto` (default: %(default)g)",
    )
    arguments = parser.parse_args()
    environ = {
        "SLLM_NODES": "2",
        "SLLM_GPU_MEMORY_BYTES": str(_GPU_BYTES),
        "SLLM_WAITING_WORTH": str(arguments.waiting_worth),
    }
    with tempfile.TemporaryDirectory(prefix="sllm-bench-") as folder, LiveCluster(environ) as cluster:
        _deploy(cluster, Path(folder))
        report = measure(cluster, arguments.seconds, arguments.waiting_worth)
    finish(report, arguments.json)


if __name__ == "__main__":
    main()
