"""The official `openai` package, unchanged, against a live cluster; and batches while control is killed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import OpenAI

from scripts.openai_checks.world import make_chat_checkpoint
from scripts.openai_conformance import check_cluster
from tests.support.cluster import KEEP_ALIVE_S, Cluster
from tests.support.processes import wait_until

pytestmark = pytest.mark.slow

_CHAT = "chat"
_README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module", autouse=True)
def deployed(cluster: Cluster) -> None:
    source = make_chat_checkpoint(cluster.home / "source" / _CHAT)
    operation = cluster.client.deploy(_CHAT, str(source), context=300, max_jobs=8, keep_alive_s=KEEP_ALIVE_S)
    cluster.client.wait_for(operation, timeout=60)


@pytest.fixture
def openai(cluster: Cluster) -> Iterator[OpenAI]:
    with OpenAI(base_url=_url(cluster) + "/v1", api_key=cluster.api_key, timeout=60, max_retries=5) as client:
        yield client


def _url(cluster: Cluster) -> str:
    return f"http://127.0.0.1:{cluster.settings.port}"


def test_every_check_of_the_conformance_script_holds(cluster: Cluster) -> None:
    assert check_cluster(_url(cluster), cluster.api_key, _CHAT) == []


def test_a_batch_answers_each_line_once_although_control_is_killed_again_and_again(
    cluster: Cluster, openai: OpenAI
) -> None:
    names = [f"line {number}" for number in range(80)]
    content = "".join(
        json.dumps(
            {
                "custom_id": name,
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": _CHAT, "prompt": name, "max_tokens": 10, "ignore_eos": True},
            }
        )
        + "\n"
        for name in names
    )
    file = openai.files.create(file=("lines.jsonl", content.encode()), purpose="batch")
    batch = openai.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")

    def num_answered() -> int:
        counts = openai.batches.retrieve(batch.id).request_counts
        return counts.completed if counts is not None else 0

    for reached in (1, 20, 45):
        wait_until(lambda reached=reached: num_answered() >= reached, f"{reached} lines are answered", 60)
        cluster.wait_restarted("control", cluster.kill("control"))
    wait_until(lambda: openai.batches.retrieve(batch.id).status == "completed", "the batch is completed", 90)
    ended = openai.batches.retrieve(batch.id)
    assert ended.error_file_id is None
    assert ended.output_file_id is not None
    records = [json.loads(line) for line in openai.files.content(ended.output_file_id).text.splitlines()]
    assert [record["custom_id"] for record in records] == names
    # Whatever was made twice would be another job with one of these prompts.
    jobs = [job.refresh().raw for job in cluster.client.jobs() if job.refresh().raw["class"] == "batch"]
    made = [job for job in jobs if job["params"]["max_tokens"] == 10 and job["model"] == _CHAT]
    assert len(made) == len(names)


def test_the_readme_shows_how_to_use_the_package(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (snippet,) = re.findall(r"```py\n(.*?)```", _README.read_text(encoding="utf-8"), flags=re.DOTALL)
    monkeypatch.setenv("OPENAI_BASE_URL", _url(cluster) + "/v1")
    monkeypatch.setenv("OPENAI_API_KEY", cluster.api_key)
    exec(snippet.replace("NAME", _CHAT), {})
    assert len(capsys.readouterr().out) > 1
