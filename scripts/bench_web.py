"""Measure the web process of a live cluster; no model computes anything, so that the machine is the web process's.

Streams: readers of jobs that get tokens at an even rate, while /healthz is asked beside them; then more readers than
the server has slots for, which are to be told so and to be answered when they poll instead. POSTs: as fast as a few
connections get them accepted. GETs of a job: at an even rate.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from scripts.bench_report import Report, Row, add_report_argument, finish
from scripts.demo_checkpoints import make_tiny
from scripts.live_cluster import LiveCluster
from scripts.played_gpu import PlayedGpu
from sllm_tasks.client import Client, calls
from sllm_tasks.config import load_settings
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.inventory import get_model
from sllm_tasks.livestate import LiveState

_MODEL = "played"
_BODY = json.dumps({"model": _MODEL, "input": {"prompt": "one two three"}, "params": {"max_tokens": 100}}).encode()
_HEALTH_EVERY_S = 0.05
#: Nothing is loaded here, and to make a large pool takes a core in the first seconds of a node's life.
_POOL_BYTES = 128 << 20
#: What readers may be behind after the last token.
_GRACE_S = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured."""

    readers: int
    events_per_s: int
    post_connections: int
    gets_per_s: int
    seconds: int
    web_threads: int
    pool_bytes: int


class Connection:
    """One HTTP connection that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: str) -> None:
        self._reader = reader
        self._writer = writer
        self._head = head
        self._answer = ""

    @classmethod
    async def open(cls, url: str, api_key: str) -> Self:
        """Connect to a server."""
        address = urlsplit(url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        return cls(reader, writer, f"Host: {address.netloc}\r\nAuthorization: Bearer {api_key}\r\n")

    async def send(self, method: str, path: str, body: bytes = b"") -> int:
        """Send a request and read the head of its answer; returns the status."""
        length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        self._writer.write(f"{method} {path} HTTP/1.1\r\n{self._head}{length}\r\n".encode() + body)
        self._answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        return int(self._answer.split(" ", 2)[1])

    async def body(self) -> bytes:
        """Read the rest of an answer whose length is known."""
        length = next(line for line in self._answer.lower().split("\r\n") if line.startswith("content-length:"))
        return await self._reader.readexactly(int(length.split(":")[1]))

    async def event_ids(self, note: Callable[[int], None]) -> None:
        """Read a stream to its end, and note the ms at which each event was made."""
        while line := await self._reader.readline():
            if line.startswith(b"id: "):
                note(int(line[4:].split(b"-")[0]))

    def close(self) -> None:
        """Close it."""
        self._writer.close()


@dataclass(frozen=True, slots=True)
class Target:
    """The server, and a way in."""

    url: str
    api_key: str

    async def connect(self) -> Connection:
        """Open a connection."""
        return await Connection.open(self.url, self.api_key)

    async def submit(self, connection: Connection) -> str:
        """Submit a job and return its id."""
        status = await connection.send("POST", "/api/v1/jobs", _BODY)
        answer = await connection.body()
        if status != 202:
            raise SystemExit(f"a job was answered with {status}: {answer.decode()}")
        return str(json.loads(answer)["id"])


@dataclass(slots=True)
class Streams:
    """What came of the readers."""

    shares: list[float]
    delays_ms: list[float]
    health_ms: list[float]
    num_refused: int
    num_polled: int


async def paced(ask: Callable[[], Awaitable[float]], per_s: float, stop: asyncio.Event) -> list[float]:
    """Ask at an even rate, however long answers take, until told to stop; the latencies in ms."""
    asked: list[asyncio.Task[float]] = []
    start_s = time.monotonic()
    while not stop.is_set():
        asked.append(asyncio.ensure_future(ask()))
        await asyncio.sleep(max(0.0, start_s + len(asked) / per_s - time.monotonic()))
    return list(await asyncio.gather(*asked))


class Getter:
    """Asks for a path over a few connections, each for one request at a time."""

    def __init__(self, connections: list[Connection], path: str) -> None:
        self._path = path
        self._free: asyncio.Queue[Connection] = asyncio.Queue()
        for connection in connections:
            self._free.put_nowait(connection)

    async def ask(self) -> float:
        """Ask once; ms from the wish to the answer, waiting for a connection included."""
        start_s = time.perf_counter()
        connection = await self._free.get()
        await connection.send("GET", self._path)
        await connection.body()
        self._free.put_nowait(connection)
        return 1000 * (time.perf_counter() - start_s)


async def measure_streams(target: Target, gpu: PlayedGpu, settings: Settings) -> Streams:
    """Let readers follow jobs that get tokens at an even rate."""
    connection = await target.connect()
    job_ids = [await target.submit(connection) for _ in range(settings.readers)]
    for job_id in job_ids:
        gpu.claim(job_id)
    num_seen, delays_ms = [0] * settings.readers, list[float]()
    readers = [await target.connect() for _ in job_ids]

    async def follow(index: int) -> None:
        def note(made_ms: int) -> None:
            num_seen[index] += 1
            delays_ms.append(time.time() * 1000 - made_ms)

        await readers[index].event_ids(note)

    for reader, job_id in zip(readers, job_ids, strict=True):
        await reader.send("GET", f"/api/v1/jobs/{job_id}/events")
    following = [asyncio.ensure_future(follow(index)) for index in range(settings.readers)]
    await asyncio.sleep(1.0)
    seen_before = list(num_seen)
    delays_ms.clear()
    stop = asyncio.Event()
    health = asyncio.ensure_future(paced(Getter([await target.connect()], "/healthz").ask, 1 / _HEALTH_EVERY_S, stop))
    num_tokens = settings.seconds * settings.events_per_s
    await asyncio.to_thread(gpu.emit, num_tokens, 1 / settings.events_per_s)
    await asyncio.sleep(_GRACE_S)
    # The first token comes with a change of status.
    shares = [min(1.0, (seen - before) / num_tokens) for seen, before in zip(num_seen, seen_before, strict=True)]
    stop.set()
    health_ms = await health
    num_refused, num_polled = await over_the_cap(target, job_ids[0], settings)
    gpu.finish(num_tokens)
    await asyncio.gather(*following)
    return Streams(shares, delays_ms, health_ms, num_refused, num_polled)


async def over_the_cap(target: Target, job_id: str, settings: Settings) -> tuple[int, int]:
    """Open as many streams as the server has threads beside those that are open: how many were refused, then polled."""
    more = [await target.connect() for _ in range(settings.web_threads - settings.readers)]
    statuses = await asyncio.gather(*(one.send("GET", f"/api/v1/jobs/{job_id}/events") for one in more))
    refused = [one for one, status in zip(more, statuses, strict=True) if status == 503]
    for one in refused:
        await one.body()
    polled = [await one.send("GET", f"/api/v1/jobs/{job_id}") for one in refused]
    for one in more:
        one.close()
    return len(refused), polled.count(200)


async def measure_posts(target: Target, gpu: PlayedGpu, settings: Settings) -> list[float]:
    """Submit jobs over a few connections as fast as they are accepted; accepted jobs in each second.

    Each is claimed, as a worker would: a job that nobody claims is sent again.
    """
    accepted_s: list[float] = []
    until_s = time.monotonic() + settings.seconds

    async def submit() -> None:
        connection = await target.connect()
        while time.monotonic() < until_s:
            job_id = await target.submit(connection)
            accepted_s.append(time.monotonic())
            await asyncio.to_thread(gpu.claim, job_id)

    start_s = time.monotonic()
    await asyncio.gather(*(submit() for _ in range(settings.post_connections)))
    seconds = range(settings.seconds)
    return [float(sum(second <= at_s - start_s < second + 1 for at_s in accepted_s)) for second in seconds]


async def measure_gets(target: Target, gpu: PlayedGpu, settings: Settings) -> list[float]:
    """Read a job at an even rate; latencies in ms."""
    connections = [await target.connect() for _ in range(16)]
    job_id = await target.submit(connections[0])
    gpu.claim(job_id)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(settings.seconds, stop.set)
    return await paced(Getter(connections, f"/api/v1/jobs/{job_id}").ask, settings.gets_per_s, stop)


def percentile(samples: list[float], share: float) -> float:
    """The smallest sample that a share of all does not exceed."""
    return sorted(samples)[max(0, int(len(samples) * share + 0.999999) - 1)]


def report(streams: Streams, posts: list[float], gets_ms: list[float], settings: Settings) -> Report:
    """Put the figures together."""
    rows = (
        Row("events that each reader had", "share", tuple(streams.shares)),
        Row("event: made to read", "ms", tuple(streams.delays_ms)),
        Row("/healthz beside them", "ms", tuple(streams.health_ms)),
        Row("POST /api/v1/jobs", "per s", tuple(posts)),
        Row("GET /api/v1/jobs/{id}", "ms", tuple(gets_ms)),
    )
    return Report(
        settings=asdict(settings),
        rows=rows,
        figures={
            "sse_rate_share": min(streams.shares),
            "sse_delay_p99_ms": percentile(streams.delays_ms, 0.99),
            "healthz_p99_ms": percentile(streams.health_ms, 0.99),
            "streams_refused": streams.num_refused,
            "refused_that_polled": streams.num_polled,
            "posts_per_s": sum(posts) / len(posts),
            "get_p99_ms": percentile(gets_ms, 0.99),
        },
    )


async def measure(target: Target, gpu: PlayedGpu, settings: Settings) -> Report:
    """Measure one thing after the other."""
    # A collection of all that was imported for the checkpoint takes 0.3 s, in which nothing here is asked or read.
    gc.freeze()
    gpu.hold(await target.submit(await target.connect()))
    gets_ms = await measure_gets(target, gpu, settings)
    streams = await measure_streams(target, gpu, settings)
    return report(streams, await measure_posts(target, gpu, settings), gets_ms, settings)


def main() -> None:
    """Measure the web process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=150)
    parser.add_argument("--events", type=int, default=20, help="a second, of each reader")
    parser.add_argument("--connections", type=int, default=16, help="that POST")
    parser.add_argument("--gets", type=int, default=200, help="a second")
    parser.add_argument("--seconds", type=int, default=10, help="of each part")
    parser.add_argument("--full", action="store_true", help="six times as long")
    add_report_argument(parser)
    arguments = parser.parse_args()
    environ = {"SLLM_NODES": "1", "SLLM_POOL_BYTES": str(_POOL_BYTES)}
    with tempfile.TemporaryDirectory() as scratch, LiveCluster(environ) as cluster:
        product, _ = load_settings(environ={"SLLM_HOME": str(cluster.home)})
        settings = Settings(
            readers=arguments.readers,
            events_per_s=arguments.events,
            post_connections=arguments.connections,
            gets_per_s=arguments.gets,
            seconds=arguments.seconds * (6 if arguments.full else 1),
            web_threads=product.web_threads,
            pool_bytes=_POOL_BYTES,
        )
        with Client(cluster.url, cluster.api_key) as client:
            source = make_tiny(Path(scratch) / "tiny")
            client.wait_for(client.deploy(_MODEL, str(source), engine="instant", context=256), timeout=120)
            # All jobs are the played gpu's: the real one would end them at once.
            client.run(calls.drain_node("node0"))
        ledger = Database(product.ledger_url)
        with ledger.reading() as session:
            model = get_model(session, _MODEL)
        ledger.close()
        target = Target(cluster.url, cluster.api_key)
        with LiveState(product.live_url) as live, PlayedGpu(live, model) as gpu:
            finish(asyncio.run(measure(target, gpu, settings)), arguments.json)


if __name__ == "__main__":
    main()
