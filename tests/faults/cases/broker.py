"""A broker that dies, forgets, is full, or loses its connections."""

from __future__ import annotations

import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from sllm_tasks.livestate.jobs import LEASE_MS
from sllm_tasks.livestate.router import LEADER_LIFE_MS
from tests.faults.cases.common import REST, start
from tests.support.cluster import Cluster
from tests.support.load import Load


def broker_killed(cluster: Cluster, load: Load) -> None:
    """Row 10: the broker dies and comes back with all it knew."""
    start(load)
    pid = cluster.kill("redis")
    load.submit(REST)
    cluster.wait_restarted("redis", pid)
    cluster.wait_for_broker()


def broker_killed_without_its_file(cluster: Cluster, load: Load) -> None:
    """Row 11: the broker dies and comes back empty."""
    start(load)
    cluster.redis.config_set("appendonly", "no")
    with cluster.frozen_supervisor():
        pid = cluster.kill("redis")
        shutil.rmtree(cluster.home / "redis" / "appendonlydir")
    load.submit(REST)
    cluster.wait_restarted("redis", pid)
    cluster.wait_for_broker()


def broker_frozen(cluster: Cluster, load: Load) -> None:
    """Row 12: the broker is silent for longer than a lease; jobs are accepted, and no worker counts as dead."""
    start(load)
    cluster.signal("redis", signal.SIGSTOP)
    try:
        frozen_s = time.monotonic()
        accepted = load.submit(REST)
        time.sleep(max(0.0, LEASE_MS / 1000 + 2 - (time.monotonic() - frozen_s)))
    finally:
        cluster.signal("redis", signal.SIGCONT)
    assert len(accepted) == len(REST), "jobs were refused although the ledger takes them"
    left = load.wait_ended(60)
    assert not left, f"did not end: {left}"
    young = {job.id for job in accepted}
    reasons = {job.id: cluster.exit_reasons(job.id) for job, _ in load.jobs.values() if job.id not in young}
    lost = {job_id: tried for job_id, tried in reasons.items() if {"worker_lost", "never_claimed"} & set(tried)}
    assert not lost, f"live workers counted as dead: {lost}"


def broker_emptied(cluster: Cluster, load: Load) -> None:
    """Row 11: the broker forgets everything while it runs."""
    start(load)
    cluster.redis.flushall()
    load.submit(REST)


def broker_out_of_memory(cluster: Cluster, load: Load) -> None:
    """Row 13: the broker takes no writes for a while; nobody dies of it, and new jobs are refused, not lost."""
    start(load)
    before = cluster.pids()
    cluster.redis.config_set("maxmemory", "1")
    with ThreadPoolExecutor(1) as pool:
        submitted = pool.submit(load.submit, REST)
        # Longer than the router's lease.
        time.sleep(LEADER_LIFE_MS / 1000 + 2)
        cluster.redis.config_set("maxmemory", "0")
        submitted.result()
    left = load.wait_ended(60)
    assert not left, f"did not end: {left}"
    after = cluster.pids()
    assert before.items() <= after.items(), f"a process died for want of memory in the broker: {before}, then {after}"


def connections_cut(cluster: Cluster, load: Load) -> None:
    """Row 12: all connections to the broker break, three times."""
    start(load)
    before = cluster.pids()
    for _ in range(3):
        for kind in ("normal", "pubsub"):
            cluster.redis.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")  # type: ignore[no-untyped-call]
        time.sleep(0.5)
    load.submit(REST)
    after = cluster.pids()
    assert before.items() <= after.items(), f"a process died of a lost connection: {before}, then {after}"
