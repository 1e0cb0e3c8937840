"""Measure dispatch on a live cluster: real web, router, control, worker and broker; only the engine does nothing.

Rounds in alternating order: jobs that find a warm replica, jobs that every time ask the router, and a plain Celery
task on the same broker. Times are marks of the machine's one monotonic clock. Then jobs per second over HTTP, and
fenced token appends per second.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from celery import Celery

from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.demo_checkpoints import make_tiny
from scripts.live_cluster import LiveCluster
from scripts.waiting import wait_until
from sllm_tasks.app import celery_settings
from sllm_tasks.bootstrap import DEFAULT_TENANT
from sllm_tasks.client import Client
from sllm_tasks.cluster import Gpu, GpuId, Replica, ReplicaShape, ReplicaState
from sllm_tasks.config import Settings, load_settings
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobSpec, SamplingParams, TokenRecord
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.jobs import count_active
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.fleet import ReplicaOrder
from sllm_tasks.livestate.jobs import Append, Claim

_MODEL = "instant"
_PEER_QUEUE = "bench.plain"
_STEP_JOBS = 32
_SHAPE = ReplicaShape(engine="instant", num_gpus=1, bytes_per_gpu=1, max_jobs=_STEP_JOBS, context=4096)
_CONNECTIONS = 16
#: Marks of one job, by name, in nanoseconds.
Marks = dict[str, int]


class Http:
    """One keep-alive connection, as thin as a load generator should be."""

    def __init__(self, url: str, api_key: str) -> None:
        self._address = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {api_key}", "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection(self._address, timeout=60)

    def submit(self, *, wait: bool) -> str:
        """Submit a job of two tokens; with `wait`, come back when it has ended."""
        body = json.dumps({"model": _MODEL, "input": {"prompt": "one two"}, "params": {"max_tokens": 2}})
        headers = {**self._headers, **({"Prefer": "wait=30"} if wait else {})}
        self._connection.request("POST", "/api/v1/jobs", body, headers)
        response = self._connection.getresponse()
        answer = json.loads(response.read())
        if response.status not in {200, 202}:
            raise SystemExit(f"submit answered {response.status}: {answer}")
        return str(answer["id"])


def read_marks(folder: Path) -> dict[str, Marks]:
    """All marks so far, by job; the first of a name counts."""
    jobs: dict[str, Marks] = defaultdict(dict)
    for path in folder.glob("*.marks"):
        for line in path.read_text().splitlines():
            nanoseconds, name, job_id = line.split()
            jobs[job_id].setdefault(name, int(nanoseconds))
    return jobs


@contextmanager
def routed_web(cluster: LiveCluster) -> Iterator[str]:
    """Run a second web process whose every job asks the router; yields its URL."""
    port = urlsplit(cluster.url).port or 0
    environ = {**cluster.environ, "SLLM_FAST_PATH": "false", "SLLM_PORT": str(port + 1)}
    for name in ("SLLM_URL", "SLLM_API_KEY"):
        environ.pop(name)
    with (cluster.home / "logs" / "web-routed.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "sllm_tasks.cli.main", "web"], env=environ, stdout=log, stderr=log
        )
    url = cluster.url.replace(f":{port}", f":{port + 1}")
    try:
        wait_until(lambda: _listens(url), "the second web process")
        yield url
    finally:
        process.terminate()
        process.wait()


def _listens(url: str) -> bool:
    try:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=2)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False


class PlainCelery:
    """The peer: a no-op task with our settings (late acks, threads, lean flags), publish to body start."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._marks = folder / "plain.times"
        self._app = Celery("plain", broker=settings.broker_url, set_as_current=False)
        self._app.conf.update(celery_settings())
        environ = {**os.environ, "BENCH_BROKER": settings.broker_url, "BENCH_MARKS": str(self._marks)}
        command = [
            *(sys.executable, "-m", "celery", "-A", "scripts.plain_celery", "worker", "-P", "threads", "-c", "64"),
            *("-Q", _PEER_QUEUE, "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"),
        ]
        with (folder / "plain.log").open("wb") as log:
            self._process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        self.sample()

    def sample(self) -> float:
        """Publish one task and wait for its body; milliseconds in between."""
        before = self._count()
        started = time.monotonic_ns()
        self._app.send_task("plain", args=[started], queue=_PEER_QUEUE, ignore_result=True)
        wait_until(lambda: self._count() > before, "a plain Celery task")
        first, second = self._marks.read_text().splitlines()[before].split()
        return (int(second) - int(first)) / 1e6

    def _count(self) -> int:
        return self._marks.read_text().count("\n") if self._marks.exists() else 0

    def close(self) -> None:
        """Stop the worker."""
        self._process.terminate()
        self._process.wait()


def measure_tokens(live: LiveState, num_steps: int) -> list[float]:
    """Append tokens of 32 jobs in one pipeline per step; tokens per second of each step."""
    gpu = GpuId("bench", 0)
    replica = Replica(
        id=new_id("replica"),
        model="bench",
        checkpoint="bench",
        gpus=(gpu,),
        state=ReplicaState.READY,
        bytes_per_gpu=1,
        max_jobs=_STEP_JOBS,
        engine=_SHAPE.engine,
        context=_SHAPE.context,
    )
    live.fleet.register_gpu(
        Gpu(id=gpu, worker_id="bench", device="cpu", capacity_bytes=10),
        [ReplicaOrder(replica=replica)],
    )
    claims = [_claimed(live, gpu) for _ in range(_STEP_JOBS)]
    rates = []
    for index in range(num_steps):
        token = TokenRecord(index=index, token_id=index, text=" word")
        step = [
            Append(job_id=claim.spec.job_id, attempt=claim.attempt, epoch=claim.epoch, tokens=(token,))
            for claim in claims
        ]
        started_s = time.perf_counter()
        live.jobs.append(step)
        rates.append(_STEP_JOBS / (time.perf_counter() - started_s))
    for claim in claims:
        live.jobs.release(claim, "bench")
    live.fleet.reap_gpu(gpu, "bench")
    return rates


def _claimed(live: LiveState, gpu: GpuId) -> Claim:
    params = SamplingParams(max_tokens=4096, seed=1)
    spec = JobSpec(
        job_id=new_id("job"), tenant="bench", model="bench", checkpoint="bench", shape=_SHAPE, prompt_ids=(1, 2),
        params=params,
    )  # fmt: skip
    live.jobs.create(spec)
    claim = live.jobs.claim(spec.job_id, 1, gpu, "bench", live.now_ms() + 60_000)
    if isinstance(claim, str):
        raise SystemExit(f"a bench job was not claimed: {claim}")
    return claim


def measure_throughput(cluster: LiveCluster, ledger: Database, marks: Path, num_jobs: int) -> tuple[float, list[Marks]]:
    """Submit jobs over several connections as fast as they are taken.

    Returns jobs per second, first POST to last end, and the marks of each: as many jobs as make equal shares.
    """
    ids: list[str] = []

    def submit() -> None:
        connection = Http(cluster.url, cluster.api_key)
        ids.extend(connection.submit(wait=False) for _ in range(num_jobs // _CONNECTIONS))

    threads = [threading.Thread(target=submit) for _ in range(_CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: _num_active(ledger) == 0, "the end of all jobs")
    # The mark of an end is made a moment after its commit.
    wait_until(lambda: all("job.ended" in job for job in _marks_of(marks, ids)), "the marks of all ends")
    jobs = _marks_of(marks, ids)
    first, last = min(job["post.received"] for job in jobs), max(job["job.ended"] for job in jobs)
    return len(jobs) / ((last - first) / 1e9), jobs


def _marks_of(folder: Path, ids: Sequence[str]) -> list[Marks]:
    jobs = read_marks(folder)
    return [jobs[job_id] for job_id in ids]


def cpu_ms(cluster: LiveCluster) -> dict[str, float]:
    """CPU time so far of each process of the cluster with its children, and of this one, in ms."""
    tick_ms = 1000 / os.sysconf("SC_CLK_TCK")
    used: dict[int, float] = defaultdict(float)
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # Fields 6, 14 and 15 of proc(5): session, user time, system time. Each child leads a session of its own.
        used[int(fields[3])] += (int(fields[11]) + int(fields[12])) * tick_ms
    names = ("web", "worker-node0.0", "control", "router", "redis")
    times = os.times()
    return {
        **{name: used[pid] for name in names if (pid := cluster.pid(name)) is not None},
        "load generator": (times.user + times.system) * 1000,
    }


def _num_active(ledger: Database) -> int:
    with ledger.reading() as session:
        return count_active(session, DEFAULT_TENANT)


def _ms(jobs: Sequence[Marks], first: str, second: str) -> tuple[float, ...]:
    return tuple((marks[second] - marks[first]) / 1e6 for marks in jobs)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_report_argument(parser)
    parser.add_argument("--full", action="store_true", help="more rounds")
    arguments = parser.parse_args()
    rounds, per_round, burst = (15, 60, 3000) if arguments.full else (7, 30, 800)
    with tempfile.TemporaryDirectory(prefix="sllm-bench-") as folder_name:
        folder = Path(folder_name)
        report = _run(folder, rounds, per_round, burst)
    finish(report, arguments.json)


def _run(folder: Path, rounds: int, per_round: int, burst: int) -> Report:
    marks_folder = folder / "marks"
    marks_folder.mkdir()
    source = make_tiny(folder / "tiny")
    environ = {"SLLM_NODES": "1", "SLLM_TIMELINE": str(marks_folder)}
    with LiveCluster(environ) as cluster, Client(cluster.url, cluster.api_key) as client:
        settings, _ = load_settings(environ={"SLLM_HOME": str(cluster.home)})
        operation = client.deploy(_MODEL, str(source), engine="instant", max_jobs=64, keep_alive_s=3600)
        client.wait_for(operation, timeout=120)
        with routed_web(cluster) as routed_url, LiveState(settings.live_url) as live:
            samples = _latencies(cluster, routed_url, settings, folder, rounds, per_round)
            marks = read_marks(marks_folder)
            warm, routed = ([marks[job_id] for job_id in ids] for ids in (samples.warm, samples.routed))
            ledger = Database(settings.ledger_url)
            measure_throughput(cluster, ledger, marks_folder, 100)
            jobs_per_s, cpu, burst_marks = [], [], list[Marks]()
            for _ in range(5):
                before = cpu_ms(cluster)
                rate, jobs = measure_throughput(cluster, ledger, marks_folder, burst)
                cpu.append({name: (used - before[name]) / len(jobs) for name, used in cpu_ms(cluster).items()})
                jobs_per_s.append(rate)
                burst_marks += jobs
            ledger.close()
            tokens_per_s = measure_tokens(live, 400)
    plain_ms = tuple(samples.plain_ms)
    rows = [
        Row("plain Celery: publish to body", "ms", plain_ms),
        Row("warm: commit to engine", "ms", _ms(warm, "job.committed", "engine.submitted")),
        Row("routed: commit to engine", "ms", _ms(routed, "job.committed", "engine.submitted")),
        Row("warm: POST to engine", "ms", _ms(warm, "post.received", "engine.submitted")),
        Row("routed: POST to engine", "ms", _ms(routed, "post.received", "engine.submitted")),
        Row("warm: POST to commit", "ms", _ms(warm, "post.received", "job.committed")),
        Row("warm: commit to message sent", "ms", _ms(warm, "job.committed", "job.sent")),
        Row("warm: message sent to claim", "ms", _ms(warm, "job.sent", "job.claimed")),
        Row("warm: claim to engine", "ms", _ms(warm, "job.claimed", "engine.submitted")),
        Row("warm: engine to end reported", "ms", _ms(warm, "engine.submitted", "job.finished")),
        Row("warm: end reported to committed", "ms", _ms(warm, "job.finished", "job.ended")),
        Row("burst: POST to commit", "ms", _ms(burst_marks, "post.received", "job.committed")),
        Row("burst: commit to engine", "ms", _ms(burst_marks, "job.committed", "engine.submitted")),
        Row("burst: engine to end committed", "ms", _ms(burst_marks, "engine.submitted", "job.ended")),
        *(Row(f"burst: CPU of {name}", "ms/job", tuple(used[name] for used in cpu)) for name in cpu[0]),
        Row("jobs over HTTP", "jobs/s", tuple(jobs_per_s)),
        Row("fenced appends, 32 jobs a step", "tokens/s", tuple(tokens_per_s)),
    ]
    plain = median(plain_ms)
    figures = {
        "warm_minus_celery_ms": median(rows[1].samples) - plain,
        "router_minus_celery_ms": median(rows[2].samples) - plain,
        "jobs_per_s": median(jobs_per_s),
        "tokens_per_s": median(tokens_per_s),
    }
    return Report(
        settings={
            "rounds": rounds,
            "jobs a round": per_round,
            "burst": burst,
            **settings.model_dump(mode="json", exclude={"home"}),
        },
        rows=rows,
        figures=figures,
    )


@dataclass(frozen=True, slots=True)
class Latencies:
    """What was sampled of each kind: ids of jobs, whose marks tell the rest, and the peer's milliseconds."""

    warm: list[str] = field(default_factory=list)
    routed: list[str] = field(default_factory=list)
    plain_ms: list[float] = field(default_factory=list)


def _latencies(
    cluster: LiveCluster, routed_url: str, settings: Settings, folder: Path, rounds: int, per_round: int
) -> Latencies:
    plain = PlainCelery(settings, folder)
    warm, routed = Http(cluster.url, cluster.api_key), Http(routed_url, cluster.api_key)

    def measure(turn: int, count: int, into: Latencies) -> None:
        kinds: list[Callable[[], None]] = [
            lambda: into.warm.append(warm.submit(wait=True)),
            lambda: into.routed.append(routed.submit(wait=True)),
            lambda: into.plain_ms.append(plain.sample()),
        ]
        for kind in kinds[turn:] + kinds[:turn]:
            for _ in range(count):
                kind()

    samples = Latencies()
    try:
        measure(0, 10, Latencies())
        for number in range(rounds):
            measure(number % 3, per_round, samples)
    finally:
        plain.close()
    return samples


if __name__ == "__main__":
    main()
