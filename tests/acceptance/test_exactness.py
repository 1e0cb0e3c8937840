"""Jobs that ask for exact continuations, with real processes, one of which is killed under them."""

from __future__ import annotations

from typing import Any

import pytest

from sllm_tasks.client import Job
from tests.support.cluster import MODEL, Cluster
from tests.support.processes import wait_until

_PROMPT = "tiny checkpoints"


def _submit(cluster: Cluster, **settings: Any) -> Job:
    return cluster.client.submit(
        model=MODEL, prompt=_PROMPT, max_tokens=100, ignore_eos=True, temperature=0.9, seed=5, **settings
    )


def _shown(cluster: Cluster, job: Job) -> dict[str, Any]:
    return dict(cluster.client.get_job(job.id).record.raw)


@pytest.mark.slow
def test_an_exact_job_whose_worker_is_killed_goes_on_exactly_and_says_so(cluster: Cluster) -> None:
    undisturbed = _submit(cluster, exactness="exact")
    text = undisturbed.result(timeout=120).text
    job = _submit(cluster, exactness="exact")
    wait_until(lambda: _shown(cluster, job)["progress"]["done"] >= 10, "the job has tokens")
    where = _shown(cluster, job)["assignment"]
    cluster.kill(f"worker-{where['node']}.{where['gpus'][0]}")
    assert job.result(timeout=120).text == text
    first, second = (_shown(cluster, each)["exactness"] for each in (undisturbed, job))
    assert (first["asked"], first["achieved"], first["downgrade"]) == ("exact", "exact", None)
    assert second == first
    assert _shown(cluster, job)["attempt"] > 1
    plain = _submit(cluster)
    plain.result(timeout=120)
    assert _shown(cluster, plain)["exactness"]["achieved"] == "token"
    cluster.wait_for_gpus()
