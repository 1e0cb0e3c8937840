"""Two models that do not fit beside each other share one gpu, also when one of them is never idle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sllm_tasks.client import Job
from tests.support.cluster import MODEL, Cluster
from tests.support.processes import wait_until


@pytest.fixture(scope="module")
def tight_cluster() -> Iterator[Cluster]:
    with Cluster(SLLM_NODES="1", SLLM_GPU_MEMORY_BYTES=str(2 << 20)) as cluster:
        cluster.deploy("other", seed=1, keep_alive_s=60)
        yield cluster


@contextmanager
def steady_use(cluster: Cluster, model: str) -> Iterator[list[Job]]:
    """Inside the block there are always some jobs of a model; a new one comes before the last one ends."""
    jobs: list[Job] = []
    stopping = threading.Event()

    def submit() -> None:
        while not stopping.wait(0.3):
            jobs.append(cluster.client.submit(model=model, prompt="the steady one", max_tokens=60, ignore_eos=True))

    thread = threading.Thread(target=submit, name="steady-use")
    thread.start()
    try:
        wait_until(lambda: bool(jobs) and jobs[0].refresh().status == "running", "the first job runs")
        yield jobs
    finally:
        stopping.set()
        thread.join()


def test_a_model_in_steady_use_does_not_starve_another(tight_cluster: Cluster) -> None:
    with steady_use(tight_cluster, MODEL) as steady:
        job = tight_cluster.client.submit(model="other", prompt="and me?", max_tokens=8, ignore_eos=True)
        wait_until(lambda: job.refresh().status_reason is not None, "the job says why it waits")
        assert job.result(timeout=60).usage.completion_tokens == 8
    # Those that came in between had to wait in turn, and none was lost.
    assert [len(job.result(timeout=60).text) > 0 for job in steady] == [True] * len(steady)
