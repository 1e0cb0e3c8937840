"""Processes that die, freeze, leave, lose the network or have a wrong clock."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.cases.common import FIRST, QUESTIONS, REST, busiest_worker, start
from tests.support.cluster import MODEL, Cluster
from tests.support.load import Load
from tests.support.processes import processes_of, wait_until
from tests.support.proxy import FaultProxy

#: Another gpu of a node, with more memory than the others, so that the router prefers it.
_EXTRA_GPU = {"SLLM_NODE": "node0", "SLLM_GPU": "1", "SLLM_GPU_MEMORY_BYTES": str(2**42)}
_WRONG_CLOCK = {"PYTHONPATH": str(Path(__file__).parents[2] / "support" / "wrong_clock")}


def worker_killed_before_claim(cluster: Cluster, load: Load) -> None:
    """Row 1: a worker dies with a message in its hands that nobody else knows of."""
    _killed_at(cluster, load, "claim.start", "kill9")


def worker_killed_while_loading(cluster: Cluster, load: Load) -> None:
    """Row 2: a worker dies with a replica half loaded."""
    _killed_at(cluster, load, "load.end", "kill9")


def worker_killed_in_prefill(cluster: Cluster, load: Load) -> None:
    """Row 3: a worker dies between a job's claim and its first token."""
    _killed_at(cluster, load, "prefill.start", "kill9")


def worker_killed_at_a_token(cluster: Cluster, load: Load) -> None:
    """Row 3: a worker dies while it decodes the 20th token of a job."""
    _killed_at(cluster, load, "decode.token", "kill9@19")


def worker_killed_under_load(cluster: Cluster, load: Load) -> None:
    """Row 3: a worker dies, and more jobs come."""
    start(load)
    cluster.kill(busiest_worker(cluster))
    load.submit(REST)


def worker_told_to_stop(cluster: Cluster, load: Load) -> None:
    """Row 34: a worker that is told to stop hands its jobs over after its grace period, and ends well."""
    with _extra_worker(cluster):
        start(load)
        assert cluster.redis.scard("sllm:gpu:node0.1:jobs"), "the extra worker has no jobs"
        status = cluster.by_hand.stop("extra-worker")
        assert status == 0, f"the worker ended with status {status}"
        assert "node0.1" not in cluster.gpus(), "the worker did not sign off"
        load.submit(REST)


def worker_told_to_stop_without_a_broker(cluster: Cluster, load: Load) -> None:
    """A worker that stops does not wait for its broker for ever, and ends no job whose tokens it could not write."""
    with _extra_worker(cluster):
        start(load)
        assert cluster.redis.scard("sllm:gpu:node0.1:jobs"), "the extra worker has no jobs"
        with cluster.frozen_supervisor():
            pid = cluster.kill("redis")
            cluster.by_hand.stop("extra-worker")
        cluster.wait_restarted("redis", pid)
        load.submit(REST)


def worker_cut_off(cluster: Cluster, load: Load) -> None:
    """Row 36: a worker loses its broker for longer than a lease, and comes back when its jobs run elsewhere."""
    path = cluster.home / "run" / "cut.sock"
    with (
        FaultProxy(cluster.settings.redis_socket, path) as proxy,
        _extra_worker(cluster, SLLM_REDIS_URL=f"unix://{path}"),
    ):
        start(load)
        assert cluster.redis.scard("sllm:gpu:node0.1:jobs"), "the extra worker has no jobs"
        proxy.blackhole()
        wait_until(lambda: "node0.1" not in cluster.gpus(), "the worker that is cut off counts as dead")
        load.submit(REST)
        load.wait_for_tokens(1, num_jobs=len(QUESTIONS))
        proxy.heal()
        wait_until(lambda: "node0.1" in cluster.gpus(), "the worker is back")
        left = load.wait_ended(60)
        assert not left, f"did not end: {left}"


def worker_with_a_wrong_clock(cluster: Cluster, load: Load) -> None:
    """Row 24: one worker's clock is two hours ahead."""
    with _extra_worker(cluster, **_WRONG_CLOCK):
        start(load)
        assert cluster.redis.scard("sllm:gpu:node0.1:jobs"), "the worker with the wrong clock has no jobs"
        load.submit(REST)
        left = load.wait_ended(60)
        assert not left, f"did not end: {left}"


def router_killed(cluster: Cluster, load: Load) -> None:
    """Row 7: the router dies while jobs wait for it."""
    start(load)
    pid = cluster.kill("router")
    load.submit(REST)
    cluster.wait_restarted("router", pid)


def router_frozen(cluster: Cluster, load: Load) -> None:
    """Row 8: the leader hangs, a standby takes over, the leader wakes and has nothing to say any more."""
    leader, pid = cluster.live.router.leader(), cluster.pids()["router"]
    cluster.start_by_hand("standby", "router")
    try:
        load.submit(FIRST[:4], num_watched=2)
        cluster.signal("router", signal.SIGSTOP)
        load.submit(FIRST[4:], num_watched=4)
        wait_until(lambda: cluster.live.router.leader() not in {leader, ""}, "the standby leads")
        successor = cluster.live.router.leader()
        load.wait_for_tokens(8, num_jobs=3)
        cluster.signal("router", signal.SIGCONT)
        load.submit(REST)
        cluster.wait_restarted("router", pid)
        assert cluster.live.router.leader() == successor, "the old leader leads again"
        left = load.wait_ended(60)
        assert not left, f"did not end: {left}"
    finally:
        cluster.by_hand.kill("standby")


def router_with_a_wrong_clock(cluster: Cluster, load: Load) -> None:
    """Row 24: the router's clock is two hours ahead."""
    with cluster.frozen_supervisor():
        cluster.kill("router")
        cluster.start_by_hand("late-router", "router", **_WRONG_CLOCK)
        start(load)
        load.submit(REST)
        left = load.wait_ended(60)
        assert not left, f"did not end: {left}"
        cluster.by_hand.kill("late-router")


def control_killed(cluster: Cluster, load: Load) -> None:
    """Control dies while jobs end: what it had not committed is committed by the next one."""
    start(load)
    pid = cluster.kill("control")
    load.submit(REST)
    cluster.wait_restarted("control", pid)


def web_killed(cluster: Cluster, load: Load) -> None:
    """Row 9: the web process dies below open streams; readers go on where they were."""
    start(load)
    pid = cluster.kill("web")
    load.submit(REST)
    cluster.wait_restarted("web", pid)


def node_agent_killed(cluster: Cluster, load: Load) -> None:
    """The agent of a node dies; its checkpoints and its worker are still there."""
    start(load)
    pid = cluster.kill("node-node0")
    load.submit(REST)
    cluster.wait_restarted("node-node0", pid)
    cluster.wait_for_copies(MODEL)


def supervisor_killed(cluster: Cluster, load: Load) -> None:
    """`sllm up` dies alone: what it had started ends by itself, while the next one starts."""
    start(load)
    orphans = cluster.lose_supervisor()
    load.submit(REST)
    wait_until(lambda: not orphans & set(processes_of(cluster.home)), "what the dead supervisor had started has ended")


def power_lost(cluster: Cluster, load: Load) -> None:
    """Everything dies at once and is started again."""
    start(load)
    cluster.lose_power()
    load.submit(REST)


def _killed_at(cluster: Cluster, load: Load, point: str, action: str) -> None:
    before = cluster.pids()
    cluster.arm(point, action)
    load.submit(QUESTIONS, num_watched=6)
    wait_until(lambda: cluster.has_fired(point), f"a worker has reached {point}")
    wait_until(lambda: cluster.pids() != before, "a worker is dead")


@contextmanager
def _extra_worker(cluster: Cluster, **environ: str) -> Iterator[None]:
    cluster.start_by_hand("extra-worker", "worker", **{**_EXTRA_GPU, **environ})
    try:
        wait_until(lambda: "node0.1" in cluster.gpus(), "the extra worker is up", 120)
        yield
    finally:
        if cluster.by_hand.status("extra-worker") is None:
            cluster.by_hand.stop("extra-worker")
        wait_until(lambda: "node0.1" not in cluster.gpus(), "the extra worker is forgotten")
