"""A model starts on a node that has no copy of its checkpoint, because the nodes that have one take no work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from sllm_tasks.client import calls
from tests.support.cluster import Cluster
from tests.support.processes import wait_until

pytestmark = pytest.mark.slow

_MODEL = "elsewhere"


@pytest.fixture
def digest(cluster: Cluster) -> Iterator[str]:
    """A checkpoint that only node0 has; node0 takes no work."""
    cluster.deploy(_MODEL, seed=31)
    (digest,) = {model["checkpoint"] for model in cluster.client.models() if model["id"] == _MODEL}
    wait_until(lambda: nodes_with(cluster, digest) == {"node0", "node1"}, "both nodes have a copy")
    cluster.client.run(calls.delete_placement(digest, "node1"))
    # As the reconciler would, but at once.
    shutil.rmtree(cluster.home / "nodes" / "node1" / "checkpoints" / digest)
    wait_until(lambda: nodes_with(cluster, digest) == {"node0"}, "node1 has no copy any more")
    cluster.client.run(calls.drain_node("node0"))
    yield digest
    cluster.client.run(calls.undrain_node("node0"))
    cluster.client.wait_for(cluster.client.delete_model(_MODEL), timeout=60)


def nodes_with(cluster: Cluster, digest: str) -> set[str]:
    return {node.name for node in cluster.live.fleet.nodes(cluster.live.now_ms()) if digest in node.checkpoints}


def test_a_node_loads_what_it_lacks_from_another_one_and_stores_nothing(cluster: Cluster, digest: str) -> None:
    job = cluster.client.submit(model=_MODEL, prompt="hello", max_tokens=3, ignore_eos=True)
    assert job.result(timeout=60).usage.completion_tokens == 3
    assignment = job.refresh().raw["assignment"]
    assert (assignment["node"], assignment["start_kind"]) == ("node1", "cold_remote")
    assert nodes_with(cluster, digest) == {"node0"}
