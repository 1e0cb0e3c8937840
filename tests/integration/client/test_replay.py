"""A trace played against a real web process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from sllm_tasks.cli.failures import Exit
from sllm_tasks.cli.replay import replay as replay_command
from sllm_tasks.client import AsyncClient, Client
from sllm_tasks.config import Settings
from sllm_tasks.errors import TraceError
from sllm_tasks.replay import Replayed, replay
from sllm_tasks.traces.files import write_trace
from sllm_tasks.traces.records import Trace, TraceRequest
from tests.support.processes import wait_until
from tests.support.web import MODEL, Web
from tests.support.web_server import WebServer


def _trace(model: str = MODEL) -> Trace:
    requests = tuple(
        TraceRequest(arrival_s=arrival_s, model=model, input_tokens=2, output_tokens=2) for arrival_s in (0.0, 0.1, 0.1)
    )
    return Trace(name="three", duration_s=1.0, requests=requests)


@contextmanager
def _answered(client: Client, web: Web) -> Iterator[None]:
    """Have a played worker run every job that comes."""
    is_over = threading.Event()

    def work() -> None:
        served: set[str] = set()
        while not is_over.wait(0.05):
            for job in client.jobs():
                # A job that was accepted a moment ago has no live record yet: it is claimed the next time.
                with suppress(AssertionError):
                    if job.id not in served:
                        web.worker.run(job.id, ["three", "four"])
                        served.add(job.id)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _play(server: WebServer, web: Web, trace: Trace, timeout_s: float) -> Replayed:
    async def play() -> Replayed:
        async with AsyncClient(server.url, web.api_key) as client:
            return await replay(client, trace, timeout_s=timeout_s)

    return asyncio.run(play())


def test_every_request_is_sent_at_its_time_and_measured(server: WebServer, client: Client, web: Web) -> None:
    with _answered(client, web):
        replayed = _play(server, web, _trace(), timeout_s=30)
    assert [job.status for job in replayed.jobs] == ["succeeded"] * 3
    assert replayed.finished == 1.0
    assert replayed.first_token is not None
    assert replayed.first_token.p50_s > 0


def test_slow_answers_hold_no_request_back(server: WebServer, client: Client, web: Web) -> None:
    replayed = _play(server, web, _trace(), timeout_s=0.5)
    assert [job.status for job in replayed.jobs] == ["timeout"] * 3
    assert len(list(client.jobs())) == 3
    assert replayed.finished == 0.0


def test_waiting_for_many_jobs_holds_no_request_back(settings: Settings, web: Web) -> None:
    first = TraceRequest(arrival_s=0.0, model=MODEL, input_tokens=2, output_tokens=2)
    # They come when the first ones have been accepted and are waited for.
    later = replace(first, arrival_s=4.0)
    trace = Trace(name="many", duration_s=4.0, requests=(first,) * 110 + (later,) * 10)

    async def play(url: str) -> None:
        async with AsyncClient(url, web.api_key) as waiting:
            playing = asyncio.create_task(replay(waiting, trace, timeout_s=300))
            with Client(url, web.api_key) as client:
                await asyncio.to_thread(wait_until, lambda: len(list(client.jobs())) == 120, "all jobs", 30.0)
            playing.cancel()
            with suppress(asyncio.CancelledError):
                await playing

    # With threads for as many waits as the product has.
    with WebServer(settings.model_copy(update={"web_threads": Settings().web_threads})) as server:
        web.worker.register()
        asyncio.run(play(server.url))


def test_a_model_that_the_cluster_has_not_is_refused_before_anything_is_sent(
    server: WebServer, client: Client, web: Web
) -> None:
    with pytest.raises(TraceError, match="nobody"):
        _play(server, web, _trace("nobody"), timeout_s=1)
    assert list(client.jobs()) == []


@pytest.mark.parametrize(
    "options", [["--timeout", "nan"], ["--timeout", "0"], ["--timeout", "1e9"], ["--json", "none/jobs.json"]]
)
def test_what_a_replay_could_not_do_in_the_end_is_refused_before_anything_is_sent(
    options: list[str], server: WebServer, client: Client, web: Web, tmp_path: Path
) -> None:
    write_trace(_trace(), tmp_path / "trace.jsonl")
    environ = {"SLLM_URL": server.url, "SLLM_API_KEY": web.api_key}
    done = CliRunner().invoke(replay_command, [str(tmp_path / "trace.jsonl"), *options], env=environ)
    assert done.exit_code == Exit.USAGE
    assert options[0] in done.stderr
    assert list(client.jobs()) == []


def test_the_command_prints_percentiles_and_writes_all_jobs(
    server: WebServer, client: Client, web: Web, tmp_path: Path
) -> None:
    write_trace(_trace(), tmp_path / "trace.jsonl")
    options = [str(tmp_path / "trace.jsonl"), "--json", str(tmp_path / "jobs.json"), "-o", "json"]
    environ = {"SLLM_URL": server.url, "SLLM_API_KEY": web.api_key}
    with _answered(client, web):
        done = CliRunner().invoke(replay_command, options, env=environ, catch_exceptions=False)
    assert done.exit_code == 0
    assert [row["name"] for row in json.loads(done.stdout)] == ["startup", "first token", "sent late"]
    assert len(json.loads((tmp_path / "jobs.json").read_text())["jobs"]) == 3
