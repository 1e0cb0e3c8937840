"""Messages that come twice, too late, from nobody, or kill whoever reads them."""

from __future__ import annotations

import json
import time
from typing import Any

from sllm_tasks.cluster import GpuId
from sllm_tasks.dispatch import RUN_JOB
from sllm_tasks.services import Services
from sllm_tasks.signing import Trigger
from tests.faults.cases.common import FIRST, QUESTIONS, REST, start
from tests.support.cluster import Cluster
from tests.support.load import Load, Question
from tests.support.processes import wait_until

_QUEUES = ("gpu.node0.0", "gpu.node1.0", "router", "control", "node.node0")
_GPUS = (GpuId("node0", 0), GpuId("node1", 0))


def messages_twice_and_stale(cluster: Cluster, load: Load) -> None:
    """Rows 25 and 26: every message comes again, to the right worker and to the wrong one, and old ones come back."""
    start(load)
    services = Services(cluster.settings, "test")
    try:
        for job_id in load.jobs:
            for gpu in _GPUS:
                for attempt in (0, 1, 1, 2):
                    services.dispatcher.run_job(gpu, job_id, attempt)
    finally:
        services.close()
    wait_until(
        lambda: cluster.counter("messages_duplicate") + cluster.counter("messages_stale") > 0, "duplicates are counted"
    )
    load.submit(REST)


def messages_forged(cluster: Cluster, load: Load) -> None:
    """Row 48: messages that nobody of this cluster has signed do nothing."""
    start(load)
    before, rejected = cluster.pids(), cluster.counter("messages_rejected")
    services = Services(cluster.settings, "test")
    job_id = next(iter(load.jobs))
    expires_ms = cluster.live.now_ms() + 60_000
    signed = services.signer.sign(Trigger(task=RUN_JOB, subject=job_id, attempt=1, expires_ms=expires_ms))
    forged: tuple[dict[str, Any], ...] = (
        {**signed, "subject": "job_of_somebody"},
        {**signed, "attempt": 2},
        {**signed, "mac": "0" * 64},
        {**signed, "mac": None},
        {name: value for name, value in signed.items() if name != "mac"},
        {**signed, "more": "than there is"},
        {},
    )
    try:
        for message in forged:
            for queue in ("gpu.node0.0", "gpu.node1.0"):
                services.app.send_task(RUN_JOB, kwargs=message, queue=queue)
        services.app.send_task(RUN_JOB, args=["job"], kwargs=signed, queue="gpu.node0.0")
        services.app.send_task("sllm.route", kwargs=signed, queue="router")
        services.app.send_task("os.system", args=["true"], queue="router")
    finally:
        services.close()
    wait_until(lambda: cluster.counter("messages_rejected") >= rejected + 2 * len(forged) + 3, "they are counted")
    assert before.items() <= cluster.pids().items(), "a process died of a forged message"
    load.submit(REST)


def junk_on_queues(cluster: Cluster, load: Load) -> None:
    """Row 27: what is no message at all is counted and dropped."""
    start(load)
    before, rejected = cluster.pids(), cluster.counter("messages_rejected")
    envelope = {"body": "!", "content-type": "application/x-python-serialize", "content-encoding": "binary"}
    properties = {"delivery_tag": "x", "delivery_info": {"exchange": "", "routing_key": ""}, "body_encoding": "base64"}
    junk = (
        b"\xff\x00junk",
        b"[]",
        b"{}",
        json.dumps({**envelope, "headers": {}, "properties": properties}).encode(),
        b'"' + b"x" * 5_000_000 + b'"',
    )
    for queue in _QUEUES:
        cluster.redis.lpush(queue, *junk)
    expected = rejected + len(junk) * len(_QUEUES)
    wait_until(lambda: cluster.counter("messages_rejected") >= expected, "junk is counted")
    assert before.items() <= cluster.pids().items(), "a process died of junk"
    load.submit(REST)


def poison(cluster: Cluster, load: Load) -> None:
    """Row 28: a job that kills its worker three times ends as poison, and nobody else suffers."""
    (bad,) = load.submit([Question(prompt="poison", max_tokens=200, seed=1, temperature=0.0)])
    load.poisoned.add(bad.id)
    cluster.arm("decode.token", *[f"kill9~{bad.id}"] * 3)
    load.submit(QUESTIONS, num_watched=6)
    wait_until(lambda: cluster.has_fired("decode.token"), "three workers have died of it", 120)
    time.sleep(1)


def unloads_lost(cluster: Cluster, load: Load) -> None:
    """A replica is closed, and the message that its worker is to free it never comes."""
    load.submit(FIRST)
    assert not load.wait_ended(120), "some jobs have not ended"
    fleet = cluster.live.fleet
    closed = [replica_id for gpu in _GPUS for replica_id in fleet.replicas_on(gpu) if fleet.unload_replica(replica_id)]
    assert closed, "no replica was idle"
    wait_until(lambda: not any(fleet.replicas(closed)), "their workers free them all the same")
    load.submit(REST)
