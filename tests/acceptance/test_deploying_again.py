"""A model that is deployed again, with real processes: it serves all the time, and jobs keep what they were given."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.client import OperationFailedError
from sllm_tasks.client.calls import get_operation
from sllm_tasks.cluster import ReplicaState
from tests.support.cluster import Cluster
from tests.support.file_server import FileServer
from tests.support.processes import wait_until

_MODEL = "changing"
_PROMPT = "tiny checkpoints"


@pytest.fixture(scope="module", autouse=True)
def deployed(cluster: Cluster) -> None:
    cluster.deploy(_MODEL, seed=31)


def _model(cluster: Cluster) -> dict[str, Any]:
    (model,) = [model for model in cluster.client.models() if model["id"] == _MODEL]
    return dict(model)


def _answer(cluster: Cluster) -> str:
    return cluster.client.submit(model=_MODEL, prompt=_PROMPT, max_tokens=8, ignore_eos=True).result(timeout=60).text


def test_jobs_go_on_while_a_model_is_deployed_again_and_run_on_what_they_were_accepted_for(cluster: Cluster) -> None:
    before = _answer(cluster)
    source = make_tiny(cluster.home / "source" / "second", seed=7)
    old = [cluster.client.submit(model=_MODEL, prompt=_PROMPT, max_tokens=100, ignore_eos=True) for _ in range(12)]
    operation = cluster.client.deploy(_MODEL, str(source), keep_alive_s=0.5, max_jobs=4, context=300)
    states = set()

    def has_ended() -> bool:
        model = _model(cluster)
        states.add(model["state"])
        return model["deployment"]["state"] == "succeeded"

    wait_until(has_ended, "the model is deployed again", 60)
    assert states == {"ready"}
    assert (_model(cluster)["context"], _model(cluster)["deployment"]["operation"]) == (300, operation.id)
    # A web process goes by what it knew for up to a second.
    wait_until(lambda: _answer(cluster) != before, "new jobs run on the new checkpoint")
    assert all(job.result(timeout=60).text.startswith(before) for job in old)
    longer = cluster.client.submit(model=_MODEL, prompt=_PROMPT, max_tokens=280, ignore_eos=True)
    assert longer.result(timeout=60).usage.completion_tokens == 280


def test_least_replicas_are_ready_without_a_job_also_of_a_shape_that_is_new(cluster: Cluster, tmp_path: Path) -> None:
    source = str(make_tiny(tmp_path / "kept", seed=5))

    def shapes() -> list[int]:
        ids = [replica_id for gpu in cluster.gpus().values() for replica_id in cluster.live.fleet.replicas_on(gpu.id)]
        replicas = [order.replica for replica_id in ids if (order := cluster.live.fleet.replica(replica_id))]
        return [each.max_jobs for each in replicas if each.model == "kept" and each.state is ReplicaState.READY]

    for max_jobs in (3, 2):
        settings = {"max_jobs": max_jobs, "context": 64, "min_replicas": 1, "keep_alive_s": 0}
        cluster.client.wait_for(cluster.client.deploy("kept", source, **settings), timeout=60)
        wait_until(lambda wanted=max_jobs: shapes() == [wanted], "a replica is ready", 30)
    cluster.client.wait_for(cluster.client.delete_model("kept"), timeout=60)


def test_a_model_is_deployed_from_a_url_like_from_a_directory(cluster: Cluster, tmp_path: Path) -> None:
    make_tiny(tmp_path / "elsewhere", seed=3)
    with FileServer(tmp_path) as server:
        settings: dict[str, Any] = {"max_jobs": 4, "context": 128}
        for name, source in (("near", str(tmp_path / "elsewhere")), ("far", f"{server.url}/elsewhere")):
            cluster.client.wait_for(cluster.client.deploy(name, source, **settings), timeout=60)
    jobs = [cluster.client.submit(model=name, prompt=_PROMPT, max_tokens=8) for name in ("near", "far")]
    near, far = (job.result(timeout=60).text for job in jobs)
    assert near == far


def test_a_model_serves_on_after_a_deployment_that_failed(cluster: Cluster, tmp_path: Path) -> None:
    before, checkpoint = _answer(cluster), _model(cluster)["checkpoint"]
    broken = make_tiny(tmp_path / "broken", seed=8)
    (broken / "tokenizer.json").unlink()
    os.mkfifo(broken / "tokenizer.json")
    with pytest.raises(OperationFailedError, match="not a regular file"):
        cluster.client.wait_for(cluster.client.deploy(_MODEL, str(broken)), timeout=30)
    model = _model(cluster)
    assert (model["state"], model["checkpoint"], model["deployment"]["state"]) == ("ready", checkpoint, "failed")
    assert "not a regular file" in model["deployment"]["error"]["message"]
    assert _answer(cluster) == before


def test_of_several_deployments_at_once_the_last_one_serves(cluster: Cluster, tmp_path: Path) -> None:
    sources = [str(make_tiny(tmp_path / f"seed_{seed}", seed=seed)) for seed in (11, 12, 13)]
    asked = [cluster.client.deploy(_MODEL, source, max_jobs=4, context=256) for source in sources]
    cluster.client.wait_for(asked[-1], timeout=60)
    for operation in asked[:-1]:
        with suppress(OperationFailedError):
            cluster.client.wait_for(operation, timeout=60)
    ended = [cluster.client.run(get_operation(operation.id)) for operation in asked]
    assert [operation.error_code for operation in ended] == ["conflict", "conflict", None]
    model = _model(cluster)
    assert model["source"] == sources[-1]
    assert model["checkpoint"] == ended[-1].raw["result"]["digest"]
