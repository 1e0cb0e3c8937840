"""A replica over both gpus of a node: it serves, goes with either of its workers, and gives everything back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sllm_tasks.client import Job
from sllm_tasks.cluster import Replica
from tests.support.cluster import MODEL, Cluster
from tests.support.processes import wait_until

_PAIR = "pair"
#: Room for one replica on one gpu, or for half of one on each.
_GPU_BYTES = 2_000_000
#: A job takes ten seconds: a worker that was killed counts as dead after six.
_STEP_MS, _NUM_TOKENS = 50, 200


@pytest.fixture(scope="module")
def pair_cluster() -> Iterator[Cluster]:
    environ = {"SLLM_NODES": "1", "SLLM_GPUS_PER_NODE": "2", "SLLM_GPU_MEMORY_BYTES": str(_GPU_BYTES)}
    with Cluster(step_ms=_STEP_MS, **environ) as cluster:
        cluster.wait_for_gpus(2)
        # The same weights, so the same answers. The replica on one gpu stays for as long as nobody needs its memory.
        cluster.deploy(_PAIR, num_gpus=2, keep_alive_s=1)
        cluster.deploy(MODEL, keep_alive_s=3600)
        yield cluster


@pytest.fixture(scope="module")
def expected(pair_cluster: Cluster) -> str:
    """What one gpu answers."""
    return ask(pair_cluster, MODEL).result(timeout=60).text


def ask(cluster: Cluster, model: str) -> Job:
    return cluster.client.submit(model=model, prompt="what can two do?", max_tokens=_NUM_TOKENS, ignore_eos=True)


def replicas(cluster: Cluster) -> dict[str, Replica]:
    """What is loaded, by model."""
    fleet = cluster.live.fleet
    orders = [fleet.replica(id_) for gpu in fleet.gpus() for id_ in fleet.replicas_on(gpu.id)]
    return {order.replica.model: order.replica for order in orders if order is not None}


def running_on_both(cluster: Cluster) -> tuple[Job, Replica]:
    """A job that decodes on a replica over both gpus."""
    job = ask(cluster, _PAIR)
    wait_until(lambda: job.refresh().status == "running", "the job decodes", 60)
    return job, replicas(cluster)[_PAIR]


def wait_until_free(cluster: Cluster) -> None:
    """Both gpus are up, and nobody holds memory of them."""
    wait_until(lambda: len(cluster.gpus()) == 2 and not replicas(cluster), "all memory is given back", 60)
    assert [gpu.reserved_bytes for gpu in cluster.gpus().values()] == [0, 0]


def test_it_takes_memory_of_both_gpus_which_others_give_up_for_it(pair_cluster: Cluster, expected: str) -> None:
    alone = replicas(pair_cluster)[MODEL]
    job, pair = running_on_both(pair_cluster)
    assert sorted(str(gpu) for gpu in pair.gpus) == ["node0.0", "node0.1"]
    assert [gpu.reserved_bytes for gpu in pair_cluster.gpus().values()] == [pair.bytes_per_gpu, pair.bytes_per_gpu]
    assert MODEL not in replicas(pair_cluster)
    # About half of what one gpu needs: a layer, and the embeddings on one of them.
    assert pair.bytes_per_gpu < 0.7 * alone.bytes_per_gpu
    assert job.result(timeout=60).text == expected
    wait_until_free(pair_cluster)


@pytest.mark.parametrize("place", [0, 1], ids=["leader", "follower"])
def test_its_job_goes_on_elsewhere_when_a_worker_of_it_is_killed(
    pair_cluster: Cluster, expected: str, place: int
) -> None:
    job, first = running_on_both(pair_cluster)
    name = f"worker-{first.gpus[place]}"
    pair_cluster.wait_restarted(name, pair_cluster.kill(name))
    assert job.result(timeout=90).text == expected
    view = pair_cluster.live.jobs.view(job.id)
    assert view is not None
    # Only the death of the leader may have been the job's fault.
    assert (view.attempt, view.losses) == (2, 1 - place)
    assert pair_cluster.live.fleet.replica(first.id) is None
    wait_until_free(pair_cluster)
