"""A copy of a checkpoint that rots on a node's disk is found, put aside and fetched again from another node."""

from __future__ import annotations

import pytest

from sllm_tasks.client import OperationFailedError, OperationRecord
from sllm_tasks.client.calls import Call
from sllm_tasks.client.records import decode_operation
from tests.support.cluster import Cluster
from tests.support.processes import wait_until

pytestmark = pytest.mark.slow

_MODEL = "rotten"


def _verify(cluster: Cluster, digest: str, node: str) -> OperationRecord:
    path, body = f"/api/v1/checkpoints/{digest}/verify", {"node": node}
    call = Call(method="POST", path=path, json=body, decode=decode_operation)
    return cluster.client.wait_for(cluster.client.run(call), timeout=60)


def test_a_damaged_copy_is_put_aside_and_fetched_again(cluster: Cluster) -> None:
    cluster.deploy(_MODEL, seed=21)
    (digest,) = {model["checkpoint"] for model in cluster.client.models() if model["id"] == _MODEL}
    copy = cluster.home / "nodes" / "node0" / "checkpoints" / digest
    partition = copy / "partition_00000.bin"
    sound = partition.read_bytes()
    partition.chmod(0o644)
    partition.write_bytes(sound[:1000] + bytes([sound[1000] ^ 1]) + sound[1001:])
    partition.chmod(0o444)
    with pytest.raises(OperationFailedError, match="put aside"):
        _verify(cluster, digest, "node0")
    wait_until(partition.exists, "the copy is fetched again")
    assert partition.read_bytes() == sound
    assert len(list(copy.parent.glob(".quarantine-*"))) == 1
    assert _verify(cluster, digest, "node0").status == "succeeded"
    job = cluster.client.submit(model=_MODEL, prompt="hello", max_tokens=3, ignore_eos=True)
    assert job.result(timeout=60).usage.completion_tokens == 3
