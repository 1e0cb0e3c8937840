"""The Python client and the command line against a real web process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx2
import pytest

from sllm_tasks.cli.failures import Exit
from sllm_tasks.cli.main import main
from sllm_tasks.client import (
    ApiError,
    AsyncClient,
    AuthError,
    Client,
    JobCanceledError,
    JobTimeoutError,
    NotFoundApiError,
    Token,
)
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.operations import begin_operation, list_operations, succeed_operation
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.tables import OperationRow
from tests.support.processes import wait_until
from tests.support.web import CONTEXT, MODEL, Web, add_model
from tests.support.web_server import WebServer


def test_a_submitted_job_can_be_waited_for_stopped_and_listed(client: Client, web: Web) -> None:
    job = client.submit(model=MODEL, prompt="one two", max_tokens=4)
    with pytest.raises(JobTimeoutError):
        job.result(timeout=0.1)
    threading.Timer(0.2, web.worker.run, (job.id, ["three", "four"])).start()
    result = job.result(timeout=20)
    assert (result.text, result.finish_reason, result.usage.completion_tokens) == (" three four", "stop", 2)

    stopped = client.submit(model=MODEL, messages=[{"role": "user", "content": "hello"}], job_class="batch")
    assert stopped.cancel().status == "canceled"
    with pytest.raises(JobCanceledError):
        stopped.result(timeout=5)
    again = stopped.retry()
    assert [found.id for found in client.jobs(page_size=1)] == [again.id, stopped.id, job.id]
    assert [found.id for found in client.jobs(status="canceled")] == [stopped.id]


def test_a_request_that_is_refused_raises_with_the_servers_code(client: Client, server: WebServer) -> None:
    with pytest.raises(ApiError) as refused:
        client.submit(model="nobody", prompt="hi")
    assert (refused.value.code, refused.value.status) == ("model_not_found", 422)
    with pytest.raises(NotFoundApiError):
        client.get_job("job_nothing")
    with pytest.raises(NotFoundApiError):
        list(client.stream("job_nothing"))
    with Client(server.url, "sllm_wrong") as stranger, pytest.raises(AuthError):
        stranger.models()


def test_a_stream_goes_on_after_a_restart_of_the_server_without_gap_or_repetition(
    client: Client, web: Web, server: WebServer
) -> None:
    job = client.submit(model=MODEL, prompt="one two", max_tokens=8)
    claim = web.worker.claim(job.id)
    web.worker.emit(claim, ["one", "two"])
    stream = job.stream()
    seen = [next(stream), next(stream)]
    server.kill()
    web.worker.emit(claim, ["three"], first=2)
    server.start()
    web.worker.emit(claim, ["four"], first=3)
    web.worker.finish(claim, " one two three four", 4)
    seen += stream
    assert [item.text for item in seen] == [" one", " two", " three", " four"]
    assert [item.index for item in seen if isinstance(item, Token)] == [0, 1, 2, 3]


def test_a_stopping_server_ends_its_streams_and_exits_cleanly(client: Client, web: Web, server: WebServer) -> None:
    job = client.submit(model=MODEL, prompt="one", max_tokens=8)
    claim = web.worker.claim(job.id)
    web.worker.emit(claim, ["one"])
    stream = job.stream()
    next(stream)
    assert server.stop() == 0
    server.start()
    web.worker.finish(claim, " one", 1)
    assert list(stream) == []


def test_a_server_whose_arbiter_is_killed_ends_its_streams_before_it_goes(web: Web, server: WebServer) -> None:
    events = f"{server.url}/api/v1/jobs/{web.submit()}/events"
    with httpx2.stream("GET", events, headers=web.auth, timeout=30) as response:
        lines = response.iter_lines()
        assert next(lines) == "retry: 1000"
        server.kill_arbiter()
        cut = threading.Timer(20, server.kill)
        cut.start()
        # One that is cut off raises.
        assert "event: completed" not in list(lines)
        cut.cancel()


def test_the_asynchronous_client_does_what_the_blocking_one_does(server: WebServer, web: Web) -> None:
    async def use() -> None:
        async with AsyncClient(server.url, web.api_key) as client:
            job = await client.submit(model=MODEL, prompt="one two", max_tokens=4)
            await asyncio.to_thread(web.worker.run, job.id, ["three", "four"])
            assert [item.text async for item in job.stream()] == [" three", " four"]
            assert (await job.result(timeout=20)).text == " three four"
            assert [found.id async for found in client.jobs()] == [job.id]
            assert (await job.refresh()).status == "succeeded"
            assert [model["id"] for model in await client.models()] == [MODEL]
            with pytest.raises(NotFoundApiError):
                await client.get_job("job_nothing")

    asyncio.run(use())


def test_the_command_line_runs_prompts_and_shows_what_there_is(
    server: WebServer, web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLLM_URL", server.url)
    monkeypatch.setenv("SLLM_API_KEY", web.api_key)

    def sllm(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().out

    status, job_id = sllm("submit", MODEL, "one two", "--max-tokens", "3")
    web.worker.run(job_id.strip(), ["three", "four"])
    assert (status, sllm("job", "watch", job_id.strip())) == (Exit.OK, (Exit.OK, " three four\n"))
    status, printed = sllm("job", "get", job_id.strip(), "-o", "json")
    assert (status, json.loads(printed)["status"]) == (Exit.OK, "succeeded")
    assert job_id.strip() in sllm("job", "ls", "--status", "succeeded")[1]
    assert "replica_test" in sllm("ps")[1]
    assert json.loads(sllm("status", "-o", "json")[1])["models"][0]["id"] == MODEL
    assert sllm("job", "get", "job_nothing")[0] == Exit.NOT_FOUND
    assert sllm("run", "nobody", "hi")[0] == Exit.NOT_FOUND
    assert sllm("run", "no name", "hi")[0] == Exit.USAGE
    status, printed = sllm("deploy", "other", "/nowhere", "--no-wait", "-o", "json")
    assert (status, json.loads(printed)["status"]) == (Exit.OK, "pending")
    monkeypatch.setenv("SLLM_API_KEY", "sllm_wrong")
    assert sllm("models")[0] == Exit.AUTH


def test_a_prompt_whose_reader_closes_the_output_is_cancelled(server: WebServer, web: Web) -> None:
    environ = {**os.environ, "SLLM_URL": server.url, "SLLM_API_KEY": web.api_key}
    command = [sys.executable, "-m", "sllm_tasks.cli.main", "run", MODEL, "one two"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environ) as process,
        Client(server.url, web.api_key) as client,
    ):
        wait_until(lambda: list(client.jobs()), "the job")
        (job,) = client.jobs()
        claim = web.worker.claim(job.id)
        web.worker.emit(claim, ["three"])
        assert process.stdout is not None
        assert process.stdout.read(1) == b" "
        process.stdout.close()
        web.worker.emit(claim, ["four"], first=1)
        wait_until(lambda: job.refresh().status == "canceling", "the job is asked to stop")
        web.worker.finish(claim, " three four", 2, JobStatus.CANCELED)
        assert process.wait(20) == Exit.FAILURE


def test_a_deployment_says_on_the_command_line_when_a_model_has_less_context_than_was_asked_for(
    server: WebServer, web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLLM_URL", server.url)
    monkeypatch.setenv("SLLM_API_KEY", web.api_key)
    ledger = web.services.ledger

    def pending() -> list[OperationRow]:
        with ledger.reading() as session:
            return list(list_operations(session, PageRequest()).rows)

    def succeed() -> None:
        wait_until(pending, "the operation")
        (row,) = pending()
        with ledger.transaction() as session:
            attempt = begin_operation(session, row.id, node="node0", now=datetime.now(UTC))
            assert attempt is not None
            succeed_operation(session, row.id, attempt=attempt, result={}, now=datetime.now(UTC))

    with ThreadPoolExecutor(1) as other:
        succeeded = other.submit(succeed)
        with pytest.raises(SystemExit) as ended:
            main(["deploy", MODEL, "/nowhere", "--context", str(10 * CONTEXT)])
        succeeded.result()
    assert ended.value.code == Exit.OK
    assert f"context: {CONTEXT} tokens, as many as {MODEL} has positions for" in capsys.readouterr().err


def test_a_job_that_waits_says_why_to_the_client_and_on_the_command_line(
    client: Client, web: Web, server: WebServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLLM_URL", server.url)
    monkeypatch.setenv("SLLM_API_KEY", web.api_key)
    add_model(web.services.ledger, "cold")
    job = client.submit(model="cold", prompt="one")
    assert job.record.status_reason is None
    web.services.live.router.note_wait(job.id, 1, "no gpu has the memory")
    assert job.refresh().status_reason == "no gpu has the memory"
    with pytest.raises(SystemExit):
        main(["job", "get", job.id])
    assert "no gpu has the memory" in capsys.readouterr().out
    said = ""

    def is_said(reason: str) -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return f"{job.id} waits: {reason}\n" in said

    def change() -> None:
        wait_until(lambda: is_said("no gpu has the memory"), "the first reason")
        web.services.live.router.note_wait(job.id, 1, "its turn comes")
        wait_until(lambda: is_said("its turn comes"), "the next reason")
        job.cancel()

    with ThreadPoolExecutor(1) as other:
        changed = other.submit(change)
        with pytest.raises(SystemExit):
            main(["job", "watch", job.id])
        changed.result()
