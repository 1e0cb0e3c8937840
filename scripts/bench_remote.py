"""Measure downloads of a checkpoint from an HTTP server on this machine, against a plain download in parallel ranges.

The server is a process of its own that sends files from the page cache. Both fetch the same file to the same disk, and
end when it is durable there; rounds alternate. Streams end in memory, with and without a copy on the disk.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median

import torch

from loaders.errors import PoolBusyError
from loaders.format.geometry import partition_name
from loaders.memory.pool import Pool
from loaders.reading.pipeline import Progress
from loaders.remote.download import download
from loaders.remote.source import DEFAULT_CONNECTIONS
from loaders.remote.stream import stream
from loaders.writer.convert import convert
from scripts.bench_report import Report, Row, add_report_argument, finish

_TENSOR_BYTES = 32 << 20
_BLOCK_BYTES = 1 << 20
_LEASE_S = 10.0
_SHARED_MEMORY = "/dev/shm"


class _SendFile(BaseHTTPRequestHandler):
    """Sends ranges of files below the folder that the process was started in."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.path.lstrip("/"))
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        num_bytes = path.stat().st_size
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        begin, end = (int(match[1]), int(match[2]) + 1) if match else (0, num_bytes)
        end = min(end, num_bytes)
        self.send_response(206 if match else 200)
        if match:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{num_bytes}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        self.wfile.flush()
        with path.open("rb") as file:
            while begin < end:
                begin += os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are done go away without a word."""


def _serve() -> None:
    with _Server(("127.0.0.1", 0), _SendFile) as server:
        print(server.server_port, flush=True)
        server.serve_forever()


@contextmanager
def _server(root: Path) -> Iterator[int]:
    command = [sys.executable, "-m", "scripts.bench_remote", "--serve"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    process = subprocess.Popen(command, cwd=root, env=environ, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def _plain_download(port: int, name: str, target: Path, num_connections: int) -> None:
    """Each connection fetches one contiguous range and writes it into the file, which is made durable at the end."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", f"/{name}", headers={"Range": "bytes=0-0"})
    num_bytes = int(connection.getresponse().headers["Content-Range"].rpartition("/")[2])
    connection.close()
    share = -(-num_bytes // num_connections)
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.posix_fallocate(fd, 0, num_bytes)

    def fetch(begin: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        end = min(begin + share, num_bytes)
        connection.request("GET", f"/{name}", headers={"Range": f"bytes={begin}-{end - 1}"})
        response, buffer = connection.getresponse(), memoryview(bytearray(_BLOCK_BYTES))
        while count := response.readinto(buffer):
            os.pwrite(fd, buffer[:count], begin)
            begin += count
        connection.close()

    threads = [threading.Thread(target=fetch, args=(begin,)) for begin in range(0, num_bytes, share)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.fsync(fd)
    os.close(fd)


class _Bench:
    def __init__(self, folder: Path, port: int, num_connections: int) -> None:
        self._folder = folder
        self._url = f"http://127.0.0.1:{port}/source"
        self._port = port
        self._num_connections = num_connections
        #: Seconds to the first chunk of each stream without a copy.
        self.first_chunk_s: list[float] = []

    def plain(self) -> None:
        """Download the data file alone."""
        target = self._folder / "target.bin"
        _plain_download(self._port, f"source/{partition_name(0)}", target, self._num_connections)

    def download(self) -> None:
        """Download the checkpoint."""
        download(self._url, self._folder / "target", num_connections=self._num_connections)

    def stream(self, pool: Pool, destination: Path | None = None) -> None:
        """Load the checkpoint into the pool."""
        started_s = time.monotonic()
        seen_s: list[float] = []

        def on_progress(progress: Progress) -> None:
            if progress.done_bytes and not seen_s:
                seen_s.append(time.monotonic() - started_s)

        with stream(
            self._url,
            pool=pool,
            destination=destination,
            num_connections=self._num_connections,
            on_progress=on_progress,
        ):
            pass
        if destination is None:
            self.first_chunk_s += seen_s

    def clean(self, pool: Pool) -> None:
        """Forget what a round has left."""
        (self._folder / "target.bin").unlink(missing_ok=True)
        shutil.rmtree(self._folder / "target", ignore_errors=True)
        deadline_s = time.monotonic() + _LEASE_S
        while pool.contents():
            # The lease of a load goes back a moment after its last tensor has died.
            try:
                for content in pool.contents():
                    pool.free(content.key)
            except PoolBusyError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.01)


def _measure(bench: _Bench, pool: Pool, folder: Path, num_rounds: int) -> dict[str, list[float]]:
    runs: dict[str, Callable[[], None]] = {
        "plain": bench.plain,
        "download": bench.download,
        "stream": lambda: bench.stream(pool),
        "stream and copy": lambda: bench.stream(pool, folder / "target"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(num_rounds + 1):
        for name in list(runs) if number % 2 else reversed(list(runs)):
            started_s = time.monotonic()
            runs[name]()
            if number:  # the first round warms up
                seconds[name].append(time.monotonic() - started_s)
            bench.clean(pool)
    return seconds


def _report(seconds: dict[str, list[float]], bench: _Bench, num_bytes: int, settings: dict[str, object]) -> Report:
    rows = [
        Row(name, "GB/s", tuple(num_bytes / 1e9 / sample for sample in samples)) for name, samples in seconds.items()
    ]
    rows.append(Row("first chunk of a stream", "s", tuple(bench.first_chunk_s[1:])))
    speed = {row.name: median(row.samples) for row in rows}
    return Report(
        settings=settings,
        rows=rows,
        figures={
            "remote_over_plain": speed["download"] / speed["plain"],
            "stream_and_copy_over_plain": speed["stream and copy"] / speed["plain"],
            "first_chunk_over_whole": speed["first chunk of a stream"] / median(seconds["stream"]),
        },
    )


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--mebibytes", type=int, default=1024, help="size of the checkpoint")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=DEFAULT_CONNECTIONS)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured (default: the temporary folder)")
    add_report_argument(parser)
    arguments = parser.parse_args()
    if arguments.serve:
        _serve()
        return
    num_tensors = max(1, (arguments.mebibytes << 20) // _TENSOR_BYTES)
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as name,
        tempfile.TemporaryDirectory(dir=_SHARED_MEMORY) as pool_name,
    ):
        folder = Path(name)
        tensors = {f"layers.{index}.weight": torch.randn(_TENSOR_BYTES // 4) for index in range(num_tensors)}
        num_bytes = convert(tensors, folder / "source").num_bytes
        del tensors
        shutil.copyfile(folder / "source" / partition_name(0), os.devnull)  # into the page cache
        with _server(folder) as port, Pool.open(Path(pool_name), num_bytes + (32 << 20)) as pool:
            pool.prepare()
            bench = _Bench(folder, port, arguments.connections)
            seconds = _measure(bench, pool, folder, arguments.rounds)
            settings = {"bytes": num_bytes, "connections": arguments.connections, "pages": pool.page_kind.value}
        finish(_report(seconds, bench, num_bytes, settings), arguments.json)


if __name__ == "__main__":
    main()
