"""Compare the simulator with a live cluster of two nodes on this machine that plays the same trace.

A first, shorter trace teaches the estimators. Then, three times: the cluster plays the trace; the simulator, with the
router's own policy, plays it on hardware that is what the estimators had learned from the ledger before. So every
simulation is a forecast. Between replays the cluster idles until nothing is loaded. What was predicted for each load,
and what the router predicted for each start behind one, is compared with what came as well.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median

from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.live_cluster import LiveCluster
from scripts.replay_cluster import GPU_BYTES, KEEP_ALIVE_S, MODELS, Prediction, ReplayCluster
from sllm_tasks.config import load_settings
from sllm_tasks.ledger.database import Database
from sllm_tasks.livestate import LiveState
from sllm_tasks.replay import Percentiles
from sllm_tasks.traces.generate import Recipe, generate
from sllm_tasks.traces.records import Trace

#: Requests a second, in bursts: each core computes for less than half of the time.
_RATE_PER_S = 2.3
_NUM_REQUESTS = 210
_CV = 2.0
#: Of the lengths of answers in GSM8K: two cores are no A40.
_ANSWER_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The starts of one replay, and those that were simulated from what was known before it."""

    live_s: tuple[float, ...]
    simulated_s: tuple[float, ...]

    def error(self, measure: str) -> float:
        """How far a measure of the simulated starts is from the live one's, as a share of that."""
        live, simulated = (getattr(Percentiles.of(times_s), measure) for times_s in (self.live_s, self.simulated_s))
        return float(abs(simulated - live) / live)


def make_trace(name: str, *, num_requests: int, seed: int) -> Trace:
    """Requests for all models in bursts, with lengths like those of GSM8K."""
    recipe = Recipe(
        name=name,
        seed=seed,
        duration_s=num_requests / _RATE_PER_S,
        rate_per_s=_RATE_PER_S,
        models=tuple(MODELS),
        lengths="gsm8k",
        cv=_CV,
    )
    trace = generate(recipe)
    requests = tuple(
        replace(request, output_tokens=max(1, round(request.output_tokens * _ANSWER_SHARE)))
        for request in trace.requests
    )
    return replace(trace, requests=requests)


def _busy_s() -> float:
    """Time that all cores together have computed, for whomever."""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _run(bench: ReplayCluster, *, num_replays: int) -> Report:
    bench.play(make_trace("calibration", num_requests=100, seed=0))
    trace = make_trace("validation", num_requests=_NUM_REQUESTS, seed=1)
    begun, forecasts, busy = bench.now, list[Forecast](), list[float]()
    for number in range(num_replays):
        bench.empty()
        simulated_s = bench.simulate(trace)
        busy_s, begun_s = _busy_s(), time.monotonic()
        replayed = bench.play(trace)
        busy.append((_busy_s() - busy_s) / (time.monotonic() - begun_s) / len(os.sched_getaffinity(0)))
        live_s = tuple(job.startup_s for job in replayed.jobs if job.startup_s is not None)
        forecasts.append(Forecast(live_s=live_s, simulated_s=simulated_s))
        print(f"replay {number + 1}: live {Percentiles.of(live_s)}\n  simulated {Percentiles.of(simulated_s)}")
    loads, starts = bench.loads(begun), bench.starts(begun)
    return Report(
        settings={
            "requests": _NUM_REQUESTS,
            "rate per s": _RATE_PER_S,
            "models": len(MODELS),
            "nodes": 2,
            "gpu bytes": GPU_BYTES,
            "keep-alive s": KEEP_ALIVE_S,
            "replays": num_replays,
        },
        rows=[
            *_rows(forecasts),
            Row("share of the cores busy", "", tuple(busy)),
            Row("loads: actual", "s", tuple(each.actual_s for each in loads)),
            Row("loads: predicted", "s", tuple(each.predicted_s for each in loads)),
            Row("starts behind a load: actual", "s", tuple(each.actual_s for each in starts)),
            Row("starts behind a load: predicted", "s", tuple(each.predicted_s for each in starts)),
        ],
        figures={
            "simulator_error_mean": median(forecast.error("mean_s") for forecast in forecasts),
            "simulator_error_p95": median(forecast.error("p95_s") for forecast in forecasts),
            **_errors("load", loads),
            **_errors("start", starts),
        },
    )


def _errors(name: str, predictions: Sequence[Prediction]) -> dict[str, float]:
    """How wrong predictions were in the median, and how many were within their intervals of 80 %."""
    return {
        f"{name}_error_ms": median(each.error_s for each in predictions) * 1_000,
        f"{name}_error_share": median(each.error_s / each.actual_s for each in predictions),
        f"{name}_interval_coverage": fmean(each.is_inside for each in predictions),
    }


def _rows(forecasts: Sequence[Forecast]) -> Iterator[Row]:
    for number, forecast in enumerate(forecasts, start=1):
        yield Row(f"replay {number}: live startup", "s", forecast.live_s)
        yield Row(f"replay {number}: simulated startup", "s", forecast.simulated_s)
    for measure in ("mean_s", "p50_s", "p95_s", "p99_s"):
        name = measure.removesuffix("_s")
        for kind in ("live", "simulated"):
            times = tuple(getattr(Percentiles.of(getattr(each, f"{kind}_s")), measure) for each in forecasts)
            yield Row(f"{kind} {name}, of each replay", "s", times)


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_report_argument(parser)
    parser.add_argument("--full", action="store_true", help="five replays")
    arguments = parser.parse_args()
    environ = {"SLLM_NODES": "2", "SLLM_GPU_MEMORY_BYTES": str(GPU_BYTES)}
    with tempfile.TemporaryDirectory(prefix="sllm-bench-") as folder, LiveCluster(environ) as cluster:
        settings, _ = load_settings(environ={"SLLM_HOME": str(cluster.home)})
        ledger = Database(settings.ledger_url)
        with LiveState(settings.live_url) as live:
            bench = ReplayCluster(cluster, live, ledger)
            bench.deploy(Path(folder))
            report = _run(bench, num_replays=5 if arguments.full else 3)
        ledger.close()
    finish(report, arguments.json)


if __name__ == "__main__":
    main()
