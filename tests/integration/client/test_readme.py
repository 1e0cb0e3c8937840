"""The README's Python does what it looks like."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from sllm_tasks.client import Client
from tests.support.processes import wait_until
from tests.support.web import MODEL, Web
from tests.support.web_server import WebServer

_README = Path(__file__).parents[3] / "README.md"


def test_the_python_of_the_readme_streams_an_answer_and_its_usage(
    server: WebServer, client: Client, web: Web, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = re.findall(r"```python\n(.*?)```", _README.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.setenv("SLLM_URL", server.url)
    monkeypatch.setenv("SLLM_API_KEY", web.api_key)

    def play_worker() -> None:
        wait_until(lambda: list(client.jobs()), "the job of the snippet")
        (job,) = client.jobs()
        web.worker.run(job.id, ["three", "four"])

    worker = threading.Thread(target=play_worker)
    worker.start()
    exec(snippet.replace("NAME", MODEL), {})
    worker.join()
    assert capsys.readouterr().out.startswith(" three fourUsage(")
