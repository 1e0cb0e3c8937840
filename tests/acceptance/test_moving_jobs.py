"""Running jobs on two nodes: they move, their readers see every token once, and a drained node is empty."""

from __future__ import annotations

import signal

import pytest

from scripts.demo_checkpoints import make_tiny
from sllm_tasks.client import ApiError, Job, calls
from sllm_tasks.cluster import GpuId
from tests.support.cluster import KEEP_ALIVE_S, MODEL, Cluster
from tests.support.load import Watcher
from tests.support.processes import wait_until

pytestmark = pytest.mark.slow

_MAX_TOKENS = 150
_PROMPT = "what moves and stays the same?"


@pytest.fixture(scope="module")
def expected(cluster: Cluster) -> str:
    return submit(cluster).result(timeout=60).text or ""


def submit(cluster: Cluster, model: str = MODEL) -> Job:
    return cluster.client.submit(
        model=model, prompt=_PROMPT, max_tokens=_MAX_TOKENS, seed=4, temperature=1.0, ignore_eos=True
    )


def wait_for_tokens(cluster: Cluster, job: Job, num_tokens: int) -> None:
    def has_them() -> bool:
        view = cluster.live.jobs.view(job.id)
        return view is not None and view.num_tokens >= num_tokens

    wait_until(has_them, f"{num_tokens} tokens of {job.id}")


def gpu_of(cluster: Cluster, job: Job) -> GpuId:
    view = cluster.live.jobs.view(job.id)
    assert view is not None
    assert view.gpu is not None
    return view.gpu


def other(gpu: GpuId) -> GpuId:
    return GpuId("node1" if gpu.node == "node0" else "node0", 0)


def pause_of(cluster: Cluster, migration_id: str) -> object:
    return cluster.client.run(calls.get_migration(migration_id))["pause_ms"]


def assert_undisturbed(job: Job, expected: str) -> None:
    assert job.result(timeout=60).text == expected
    assert job.refresh().attempt == 1


def assert_seen_whole(watcher: Watcher, expected: str) -> None:
    assert watcher.join(60)
    assert not [event for event in watcher.events if event.kind == "snapshot"]
    tokens = [event.data for event in watcher.events if event.kind == "token"]
    assert [token["index"] for token in tokens] == list(range(_MAX_TOKENS))
    assert "".join(token["text"] for token in tokens) == expected


def test_a_job_moves_there_and_back_and_its_reader_sees_every_token_once(cluster: Cluster, expected: str) -> None:
    job = submit(cluster)
    watcher = Watcher(cluster.client, job.id, cluster.api_key)
    wait_for_tokens(cluster, job, 10)
    start = gpu_of(cluster, job)
    for to in (other(start), start):
        moved = cluster.client.run(calls.start_migration(job.id, str(to)))["id"]
        wait_until(lambda to=to: gpu_of(cluster, job) == to, f"{job.id} is on {to}")
        wait_until(lambda moved=moved: pause_of(cluster, moved) is not None, f"{moved} has ended")
    assert_undisturbed(job, expected)
    assert_seen_whole(watcher, expected)
    states = [event.data["state"] for event in watcher.events if event.kind == "migration"]
    assert states.count("succeeded") == 2
    wait_until(lambda: len(recorded(cluster, job)) == 2, "the ledger has both moves")
    for migration in recorded(cluster, job):
        assert migration["rounds"]
        assert migration["pause_ms"] is not None


def recorded(cluster: Cluster, job: Job) -> list[dict[str, object]]:
    found = cluster.client.run(calls.get_list("migrations"))
    return [each for each in found if each["job_id"] == job.id and each["state"] == "succeeded"]


def test_a_job_that_cannot_move_stays_and_says_why(cluster: Cluster, expected: str) -> None:
    job = submit(cluster)
    wait_for_tokens(cluster, job, 5)
    with pytest.raises(ApiError, match=r"no gpu node9\.0"):
        cluster.client.run(calls.start_migration(job.id, "node9.0"))
    assert job.result(timeout=60).text == expected
    with pytest.raises(ApiError, match="does not move"):
        cluster.client.run(calls.start_migration(job.id))


def test_a_drained_node_is_empty_and_no_job_began_anew(cluster: Cluster, expected: str) -> None:
    jobs = [submit(cluster) for _ in range(6)]
    watchers = [Watcher(cluster.client, job.id, cluster.api_key) for job in jobs]
    wait_for_tokens(cluster, jobs[-1], 3)
    node = gpu_of(cluster, jobs[-1]).node
    cluster.client.run(calls.drain_node(node))
    try:
        wait_until(lambda: not cluster.live.jobs.of_gpu(GpuId(node, 0)), f"{node} is empty")
        assert [job.id for job in jobs if not job.refresh().status.is_terminal]
        for job, watcher in zip(jobs, watchers, strict=True):
            assert_undisturbed(job, expected)
            assert_seen_whole(watcher, expected)
    finally:
        cluster.client.run(calls.undrain_node(node))


def test_a_job_moves_away_for_one_of_a_model_that_needs_a_whole_gpu(cluster: Cluster) -> None:
    small = [deploy(cluster, f"small-{max_jobs}", max_jobs=max_jobs) for max_jobs in (1, 2)]
    capacity_bytes = min(gpu.capacity_bytes for gpu in cluster.gpus().values())
    large = deploy(cluster, "large", max_jobs=1 + (capacity_bytes - small[0]) // (small[1] - small[0]))
    assert sum(small) <= capacity_bytes < small[0] + large
    wait_until(lambda: not any(gpu.reserved_bytes for gpu in cluster.gpus().values()), "nothing is loaded")
    jobs = [submit(cluster, name) for name in ("small-1", "small-2")]
    watchers = [Watcher(cluster.client, job.id, cluster.api_key) for job in jobs]
    for job in jobs:
        wait_for_tokens(cluster, job, 3)
    if gpu_of(cluster, jobs[0]) == gpu_of(cluster, jobs[1]):
        cluster.client.run(calls.start_migration(jobs[1].id, str(other(gpu_of(cluster, jobs[0])))))
        wait_until(lambda: gpu_of(cluster, jobs[0]) != gpu_of(cluster, jobs[1]), "each gpu has one of the jobs")
    waiting = submit(cluster, "large")
    assert waiting.result(timeout=60).usage.completion_tokens == _MAX_TOKENS
    for job, watcher in zip(jobs, watchers, strict=True):
        text = job.result(timeout=60).text or ""
        assert job.refresh().attempt == 1
        assert_seen_whole(watcher, text)
    moved = [each for job in jobs for each in recorded(cluster, job) if each["reason"] != "operator"]
    assert [each["reason"] for each in moved] == ["locality"]
    assert moved[0]["predicted"] is not None


def deploy(cluster: Cluster, name: str, *, max_jobs: int) -> int:
    """Deploy a tiny model; returns what a replica takes of a gpu."""
    source = make_tiny(cluster.home / "source" / name)
    wanted = cluster.client.deploy(name, str(source), keep_alive_s=KEEP_ALIVE_S, max_jobs=max_jobs, context=256)
    cluster.client.wait_for(wanted, timeout=60)
    model = next(each for each in cluster.client.run(calls.get_list("models")) if each["id"] == name)
    return int(model["bytes_per_gpu"])


def test_a_worker_that_is_told_to_stop_moves_its_jobs_before_it_ends(cluster: Cluster, expected: str) -> None:
    jobs = [submit(cluster) for _ in range(4)]
    wait_for_tokens(cluster, jobs[-1], 3)
    gpu = gpu_of(cluster, jobs[-1])
    pid = cluster.pids()[f"worker-{gpu}"]
    cluster.signal(f"worker-{gpu}", signal.SIGTERM)
    for job in jobs:
        assert_undisturbed(job, expected)
    cluster.wait_restarted(f"worker-{gpu}", pid)
    cluster.wait_for_gpus()
