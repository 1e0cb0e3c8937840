"""The Python client against a real web process."""

from __future__ import annotations

import threading

from sllm_tasks.client import Client, Token
from tests.support.web import Web
from tests.support.web_server import WebServer


def test_a_submitted_job_can_be_waited_for(client: Client, web: Web) -> None:
    job = client.submit(model="words", prompt="one two", max_tokens=4)
    threading.Timer(0.2, web.worker.run, (job.id, ["three", "four"])).start()
    result = job.result(timeout=20)
    assert (result.text, result.finish_reason, result.usage.completion_tokens) == (" three four", "stop", 2)


def test_a_stream_goes_on_after_a_restart_of_the_server_without_gap_or_repetition(
    client: Client, web: Web, server: WebServer
) -> None:
    job = client.submit(model="words", prompt="one two", max_tokens=8)
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
