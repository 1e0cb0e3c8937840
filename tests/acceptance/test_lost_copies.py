"""The last copy of a checkpoint is lost: jobs wait until it has come again from where it was imported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scripts.demo_checkpoints import make_tiny
from tests.support.cluster import Cluster
from tests.support.file_server import FileServer
from tests.support.processes import wait_until

pytestmark = pytest.mark.slow

_MODEL = "lost"


def copies(cluster: Cluster, digest: str) -> list[Path]:
    return [path for path in (cluster.home / "nodes").glob(f"*/checkpoints/{digest}") if path.is_dir()]


def is_loaded(cluster: Cluster, digest: str) -> bool:
    fleet = cluster.live.fleet
    orders = fleet.replicas([id_ for gpu in fleet.gpus() for id_ in fleet.replicas_on(gpu.id)])
    return any(order is not None and order.replica.checkpoint == digest for order in orders)


def test_a_job_waits_until_what_no_node_has_is_imported_again(cluster: Cluster, tmp_path: Path) -> None:
    source = make_tiny(tmp_path / "source", seed=47)
    with FileServer(tmp_path) as server:
        operation = cluster.client.deploy(_MODEL, f"{server.url}/source", max_jobs=2, context=64, keep_alive_s=1)
        cluster.client.wait_for(operation, timeout=60)
        (digest,) = {model["checkpoint"] for model in cluster.client.models() if model["id"] == _MODEL}
        cluster.wait_for_copies(_MODEL)
        before = cluster.client.submit(model=_MODEL, prompt="hello", max_tokens=3, ignore_eos=True).result(timeout=60)
        # For as long as nobody has it, the server has it neither.
        hidden = source.rename(tmp_path / "hidden")
        for copy in copies(cluster, digest):
            shutil.rmtree(copy)
        wait_until(lambda: not is_loaded(cluster, digest), "its replica is gone")
        job = cluster.client.submit(model=_MODEL, prompt="hello", max_tokens=3, ignore_eos=True)
        wait_until(lambda: "no live node" in (job.refresh().status_reason or ""), "the job says what it waits for")
        hidden.rename(source)
        assert job.result(timeout=120).text == before.text
        assert copies(cluster, digest)
