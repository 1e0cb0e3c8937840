"""On a live cluster: what the router would do, what it did, and how right it was."""

from __future__ import annotations

from sllm_tasks.client import calls
from sllm_tasks.client.records import Json
from tests.support.cluster import Cluster
from tests.support.processes import wait_until

_MODEL = "explained"


def explained(cluster: Cluster) -> Json:
    return cluster.client.run(calls.explain(_MODEL, prompt_tokens=8))


def test_a_cold_model_would_be_loaded_a_warm_one_not_and_predictions_are_compared_with_what_happened(
    cluster: Cluster,
) -> None:
    cluster.deploy(_MODEL, seed=41)
    before = explained(cluster)
    assert before["choice"]["path"] in {"load_ssd", "load_dram"}
    assert before["accuracy"] is None
    job = cluster.client.submit(model=_MODEL, prompt="explain this", max_tokens=8, ignore_eos=True)
    assert job.result(timeout=60).usage.completion_tokens == 8
    after = explained(cluster)
    assert after["choice"]["path"] == "warm"
    assert after["candidates"][0]["start"]["seconds"] < before["candidates"][0]["start"]["seconds"] + 1
    wait_until(lambda: explained(cluster)["accuracy"] is not None, "the prediction was compared")
    assert explained(cluster)["accuracy"]["num_decisions"] >= 1
    decision, *_ = cluster.client.run(calls.list_decisions(job=job.id, model=None, limit=10))
    assert decision["choice"]["path"] == before["choice"]["path"]
    assert decision["actual_s"] > 0
