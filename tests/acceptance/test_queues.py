"""Queues of a live cluster: a flood of one tenant beside another's jobs, pauses, deadlines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from click.testing import CliRunner
from sqlalchemy import select

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.cli.queues import queue
from sllm_tasks.client import Client, Job, JobCanceledError, JobFailedError, calls
from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import JobStatus
from sllm_tasks.ledger.database import Database
from sllm_tasks.ledger.tables import JobRow
from tests.support.cluster import MODEL, Cluster
from tests.support.processes import wait_until

_FLOOD = 200
_SLOTS = 4
_SHARED = "shared"


@pytest.fixture(scope="module", autouse=True)
def deployed(cluster: Cluster) -> None:
    source = make_tiny(cluster.home / "source" / _SHARED, seed=1)
    # One replica: more of them would have more slots for the flood.
    settings = {"engine": "instant", "max_jobs": _SLOTS, "context": 256, "keep_alive_s": 60, "max_replicas": 1}
    cluster.client.wait_for(cluster.client.deploy(_SHARED, str(source), **settings), timeout=60)


@contextmanager
def tenant(cluster: Cluster, name: str) -> Iterator[Client]:
    """A client with a key of a tenant of its own."""
    made = cluster.client.run(calls.create_key(name, ["jobs:read", "jobs:write"], name))
    with Client(cluster.client.url, made["key"]) as client:
        yield client


@contextmanager
def flood(client: Client) -> Iterator[list[Job]]:
    """Inside the block a tenant's jobs keep coming, from several connections; afterwards all have ended."""
    jobs: list[Job] = []
    stopping = threading.Event()

    def submit(_: int) -> None:
        if not stopping.is_set():
            jobs.append(client.submit(model=_SHARED, prompt="flood", max_tokens=8, ignore_eos=True))

    with ThreadPoolExecutor(4) as pool:
        running = pool.map(submit, range(_FLOOD))
        try:
            wait_until(lambda: len(jobs) > 4 * _SLOTS, "the flood is there")
            yield jobs
        finally:
            stopping.set()
            list(running)
    assert all(len(job.result(timeout=120).text) > 0 for job in jobs)


def rows_of(cluster: Cluster, name: str) -> list[JobRow]:
    ledger = Database(cluster.settings.ledger_url)
    with ledger.reading() as session:
        rows = list(session.scalars(select(JobRow).where(JobRow.tenant == name).order_by(JobRow.id)))
    ledger.close()
    return rows


def test_a_flood_of_one_tenant_lets_few_of_its_jobs_begin_before_each_job_of_another(cluster: Cluster) -> None:
    with tenant(cluster, "flood") as flooding, tenant(cluster, "steady") as steady:
        with flood(flooding) as jobs:
            for _ in range(8):
                steady.submit(model=_SHARED, prompt="steady", max_tokens=8, ignore_eos=True).result(timeout=60)
            assert not jobs[-1].refresh().status.is_terminal
        starts = sorted(row.started_at for row in rows_of(cluster, "flood") if row.started_at)
        for row in rows_of(cluster, "steady"):
            assert row.started_at is not None
            # What was under way already, and the one that a place became free for just before.
            assert sum(row.created_at < start < row.started_at for start in starts) <= 2 * _SLOTS


def test_a_paused_queue_holds_its_jobs_and_goes_on_when_it_is_resumed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLLM_URL", cluster.client.url)
    monkeypatch.setenv("SLLM_API_KEY", cluster.api_key)

    def run(*words: str) -> str:
        result = CliRunner().invoke(queue, words)
        assert result.exit_code == 0, result.output
        return result.output

    running = cluster.client.submit(model=_SHARED, prompt="one", max_tokens=200, ignore_eos=True)
    wait_until(lambda: running.refresh().status is JobStatus.RUNNING, "the job runs")
    run("pause", _SHARED)
    held = cluster.client.submit(model=_SHARED, prompt="two", max_tokens=4)
    assert len(running.result(timeout=60).text) > 0
    wait_until(lambda: "paused" in (held.refresh().status_reason or ""), "the job says that it is held")
    cluster.redis.flushall()
    wait_until(lambda: "paused" in (held.refresh().status_reason or ""), "it is held after a loss of the live state")
    assert [line.split()[:3] for line in run("ls").splitlines() if line.startswith(_SHARED)] == [[_SHARED, "yes", "1"]]
    run("resume", _SHARED)
    assert len(held.result(timeout=60).text) > 0


def test_all_queues_can_be_paused_together(cluster: Cluster) -> None:
    cluster.client.run(calls.pause_queue("*"))
    held = [cluster.client.submit(model=model, prompt="one", max_tokens=4) for model in (MODEL, _SHARED)]
    for job in held:
        wait_until(lambda job=job: "paused" in (job.refresh().status_reason or ""), "the job says that it is held")
    cluster.client.run(calls.resume_queue("*"))
    assert [len(job.result(timeout=60).text) > 0 for job in held] == [True, True]


def test_a_job_that_could_not_begin_by_its_deadline_expires(cluster: Cluster) -> None:
    cluster.client.run(calls.pause_queue(_SHARED))
    job = cluster.client.submit(model=_SHARED, prompt="one", max_tokens=4, deadline_s=0.5)
    with pytest.raises(JobFailedError) as raised:
        job.result(timeout=30)
    cluster.client.run(calls.resume_queue(_SHARED))
    assert raised.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert job.refresh().status is JobStatus.EXPIRED


def test_a_job_whose_deadline_passes_while_it_decodes_is_canceled_and_keeps_its_text(cluster: Cluster) -> None:
    warm = cluster.client.submit(model=_SHARED, prompt="one", max_tokens=1)
    warm.result(timeout=60)
    job = cluster.client.submit(model=_SHARED, prompt="one", max_tokens=200, ignore_eos=True, deadline_s=2.0)
    with pytest.raises(JobCanceledError) as raised:
        job.result(timeout=30)
    assert raised.value.code is ErrorCode.DEADLINE_EXCEEDED
    assert len(raised.value.text) > 0
