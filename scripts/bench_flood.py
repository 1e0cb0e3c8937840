"""Measure fairness on a live cluster: a tenant submits a job a second, alone and while another floods the same model.

The flood comes over several connections as fast as it is accepted; both tenants ask for the same jobs. A latency is
from the POST to its answer, which comes when the job has ended. Only jobs that were submitted while the flood had
not ended count as under it.

Steps of the engine are slowed down to what a GPU takes for one, so that a step of a full batch takes hardly longer
than that of one job: what is measured is waiting, not how the jobs of a batch share a CPU. `--step-ms 0 --engine
steploop` decodes on the CPU instead.
"""

from __future__ import annotations

import argparse
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.demo_checkpoints import make_tiny
from scripts.live_cluster import LiveCluster
from sllm_tasks.client import Client, calls
from sllm_tasks.config import load_settings
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.jobs import count_active
from sllm_tasks.ledger.keys import Scope

_MODEL = "shared"
_CONTEXT = 256
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    flood_jobs: int
    flood_connections: int
    alone_jobs: int
    period_s: float
    tokens_per_job: int
    max_jobs: int
    engine: str
    step_ms: int


class Tenant:
    """One tenant's key; a connection per thread that uses it."""

    def __init__(self, url: str, api_key: str, settings: Settings) -> None:
        self._address = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        params = {"max_tokens": settings.tokens_per_job, "ignore_eos": True}
        self._body = json.dumps({"model": _MODEL, "input": {"prompt": "one two three"}, "params": params})
        self._local = threading.local()

    def submit(self) -> None:
        """Submit a job; it is not waited for."""
        self._post({}, http.client.ACCEPTED)

    def run(self) -> float:
        """Submit a job and wait for its end; seconds in between."""
        started_s = time.perf_counter()
        self._post({"Prefer": "wait=60"}, http.client.OK)
        return time.perf_counter() - started_s

    def _post(self, more_headers: dict[str, str], expected: int) -> None:
        if not hasattr(self._local, "connection"):
            self._local.connection = http.client.HTTPConnection(self._address, timeout=90)
        connection: http.client.HTTPConnection = self._local.connection
        connection.request("POST", "/api/v1/jobs", self._body, {**self._headers, **more_headers})
        response = connection.getresponse()
        answer = response.read()
        if response.status != expected:
            raise SystemExit(f"a job was answered with {response.status}: {answer.decode()}")


def steady(tenant: Tenant, period_s: float, goes_on: Callable[[int], bool]) -> list[float]:
    """Submit a job each period, however long the ones before take, while `goes_on(number)`; their latencies."""
    answers: list[Future[float]] = []
    with ThreadPoolExecutor(64) as pool:
        start_s = time.monotonic()
        while goes_on(len(answers)):
            answers.append(pool.submit(tenant.run))
            time.sleep(max(0.0, start_s + len(answers) * period_s - time.monotonic()))
    return [answer.result() for answer in answers]


class Flood:
    """Submits its jobs in threads of its own; `with` waits for the last of them to be accepted."""

    def __init__(self, tenant: Tenant, settings: Settings) -> None:
        self._tenant = tenant
        self._left = iter(range(settings.flood_jobs))
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(settings.flood_connections)
        self._submitting = [self._pool.submit(self._run) for _ in range(settings.flood_connections)]

    def _run(self) -> None:
        while self._take():
            self._tenant.submit()

    def _take(self) -> bool:
        with self._lock:
            return next(self._left, None) is not None

    def is_accepted(self) -> bool:
        """Whether all of it is; raises what went wrong."""
        return all(each.done() and each.result() is None for each in self._submitting)


@dataclass(frozen=True, slots=True)
class Measured:
    """Latencies in seconds, and how long the flood took to be accepted and to end."""

    alone: list[float]
    flooded: list[float]
    alone_again: list[float]
    accepted_s: float
    flood_s: float


def measure(cluster: LiveCluster, client: Client, settings: Settings) -> Measured:
    """Run the steady tenant alone, under the flood, and alone again."""
    scopes = [Scope.JOBS_READ.value, Scope.JOBS_WRITE.value]
    keys = {name: client.run(calls.create_key(name, scopes, name))["key"] for name in ("steady", "flood")}
    tenant, flooder = (Tenant(cluster.url, keys[name], settings) for name in ("steady", "flood"))
    product, _ = load_settings(environ={"SLLM_HOME": str(cluster.home)})
    ledger = Database(product.ledger_url)

    def flood_has_ended() -> bool:
        with ledger.reading() as session:
            return count_active(session, "flood") == 0

    def run_alone() -> list[float]:
        return steady(tenant, settings.period_s, lambda number: number < settings.alone_jobs)

    steady(tenant, settings.period_s, lambda number: number < 5)
    alone = run_alone()
    start_s = time.monotonic()
    flood, accepted_s = Flood(flooder, settings), 0.0

    def flood_goes_on(_: int) -> bool:
        nonlocal accepted_s
        if not accepted_s and flood.is_accepted():
            accepted_s = time.monotonic() - start_s
        if time.monotonic() - start_s > _TIMEOUT_S:
            raise SystemExit(f"the flood has not ended within {_TIMEOUT_S:.0f} s")
        return not accepted_s or not flood_has_ended()

    flooded = steady(tenant, settings.period_s, flood_goes_on)
    flood_s = time.monotonic() - start_s
    ledger.close()
    return Measured(alone, flooded, run_alone(), accepted_s, flood_s)


def p95(samples: list[float]) -> float:
    """The smallest sample that 95 % do not exceed."""
    return sorted(samples)[max(0, -(-len(samples) * 95 // 100) - 1)]


def report(measured: Measured, settings: Settings) -> Report:
    """Compare the two."""
    alone = measured.alone + measured.alone_again
    rows = {
        "alone": measured.alone,
        "under flood": measured.flooded,
        "alone again": measured.alone_again,
    }
    return Report(
        settings=asdict(settings),
        rows=[Row(name, "ms", tuple(1000 * sample for sample in samples)) for name, samples in rows.items()],
        figures={
            "p95_alone_ms": 1000 * p95(alone),
            "p95_flooded_ms": 1000 * p95(measured.flooded),
            "flood_p95_ratio": p95(measured.flooded) / p95(alone),
            "flood_accepted_s": measured.accepted_s,
            "flood_s": measured.flood_s,
            "flood_jobs_per_s": settings.flood_jobs / measured.flood_s,
        },
    )


def main() -> None:
    """Measure what a flood of one tenant does to the latency of another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2_000, help="of the flood")
    parser.add_argument("--connections", type=int, default=4, help="of the flood")
    parser.add_argument("--alone", type=int, default=30, help="jobs before the flood, and after it")
    parser.add_argument("--tokens", type=int, default=32, help="of each job")
    parser.add_argument("--max-jobs", type=int, default=8, help="jobs that a replica takes at once")
    parser.add_argument("--engine", default="instant")
    parser.add_argument("--step-ms", type=int, default=20, help="a step of the engine takes so much longer")
    parser.add_argument("--full", action="store_true", help="five times the flood")
    add_report_argument(parser)
    arguments = parser.parse_args()
    settings = Settings(
        flood_jobs=arguments.jobs * (5 if arguments.full else 1),
        flood_connections=arguments.connections,
        alone_jobs=arguments.alone,
        period_s=1.0,
        tokens_per_job=arguments.tokens,
        max_jobs=arguments.max_jobs,
        engine=arguments.engine,
        step_ms=arguments.step_ms,
    )
    environ = {"SLLM_MAX_QUEUED_JOBS": str(2 * settings.flood_jobs)}
    if settings.step_ms:
        environ["SLLM_FAILPOINTS"] = f"decode.step=sleep:{settings.step_ms}"
    with tempfile.TemporaryDirectory() as scratch, LiveCluster(environ) as cluster:
        source = make_tiny(Path(scratch) / "tiny")
        with Client(cluster.url, cluster.api_key) as client:
            operation = client.deploy(
                _MODEL, str(source), engine=settings.engine, max_jobs=settings.max_jobs, context=_CONTEXT,
                keep_alive_s=3600,
            )  # fmt: skip
            client.wait_for(operation, timeout=120)
            finish(report(measure(cluster, client, settings), settings), arguments.json)


if __name__ == "__main__":
    main()
