"""Workers that die while a job moves between them, at each step of the protocol, and what they need for it."""

from __future__ import annotations

import time
from contextlib import suppress

from sllm_tasks.errors import ConflictError
from sllm_tasks.jobs import JobStatus
from sllm_tasks.migration.states import MigrationReason
from sllm_tasks.mover import Mover
from tests.faults.cases.common import QUESTIONS
from tests.support.cluster import Cluster
from tests.support.load import Load
from tests.support.processes import wait_until

#: Few at a time, so that there is room to move to; and until the fault, for a job may end before it has moved.
_GROUP = 4
_MOVING_S = 2.0


def source_killed_before_a_round(cluster: Cluster, load: Load) -> None:
    """Row 4: the source dies with the first round unsent."""
    _killed_at(cluster, load, "migrate.round1.send")


def target_killed_at_a_round(cluster: Cluster, load: Load) -> None:
    """Row 5: the target dies with a round in its hands."""
    _killed_at(cluster, load, "migrate.round1.recv")


def target_killed_before_it_acknowledges(cluster: Cluster, load: Load) -> None:
    """Row 5: the target dies between reading a round and saying so."""
    _killed_at(cluster, load, "migrate.round1.ack")


def source_killed_before_the_hand_over(cluster: Cluster, load: Load) -> None:
    """Row 4: the source dies when it has stopped and the job is still its own."""
    _killed_at(cluster, load, "handover.before_cas")


def source_killed_after_the_hand_over(cluster: Cluster, load: Load) -> None:
    """Row 4: the source dies when the job is the target's."""
    _killed_at(cluster, load, "handover.after_cas")


def target_killed_after_the_hand_over(cluster: Cluster, load: Load) -> None:
    """Row 5: the target dies with a job that is its own and of which it has decoded nothing."""
    _killed_at(cluster, load, "handover.resume")


def both_killed_in_a_round(cluster: Cluster, load: Load) -> None:
    """Row 6: the target dies with a round in its hands, and the source with it."""
    _killed_at(cluster, load, "migrate.round1.recv", all_workers=True)


def both_killed_after_the_hand_over(cluster: Cluster, load: Load) -> None:
    """Row 6: the source dies when the job is the target's, and the target with it."""
    _killed_at(cluster, load, "handover.after_cas", all_workers=True)


def router_and_broker_killed_while_jobs_move(cluster: Cluster, load: Load) -> None:
    """Rows 7, 10 and 12: moves lose the router, their messages and the live state, one after the other."""
    load.submit(QUESTIONS[:_GROUP], num_watched=2)
    load.wait_for_tokens(2, num_jobs=_GROUP)
    _move_for(cluster, load, 0.5)
    router = cluster.kill("router")
    _move_for(cluster, load, 0.3)
    cluster.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")  # type: ignore[no-untyped-call]
    load.submit(QUESTIONS[_GROUP : 2 * _GROUP], num_watched=2)
    _move_for(cluster, load, 0.5)
    broker = cluster.kill("redis")
    load.submit(QUESTIONS[2 * _GROUP :])
    cluster.wait_restarted("redis", broker)
    cluster.wait_for_broker()
    _move_for(cluster, load, 0.5)
    cluster.wait_restarted("router", router)


def _move_for(cluster: Cluster, load: Load, seconds: float) -> None:
    deadline_s = time.monotonic() + seconds
    while time.monotonic() < deadline_s:
        _move_one(cluster, load)
        time.sleep(0.05)


def _killed_at(cluster: Cluster, load: Load, point: str, *, all_workers: bool = False) -> None:
    pids = cluster.pids()
    workers = [name for name in pids if name.startswith("worker-")]
    cluster.arm(point, "kill9")
    for first in range(0, len(QUESTIONS), _GROUP):
        load.submit(QUESTIONS[first : first + _GROUP], num_watched=2)
        if not cluster.has_fired(point):
            # A worker that was started a moment ago imports a lot before its first load.
            load.wait_for_tokens(1, num_jobs=first + 1)
        deadline_s = time.monotonic() + _MOVING_S
        while not cluster.has_fired(point) and time.monotonic() < deadline_s:
            _move_one(cluster, load)
            time.sleep(0.05)
        if cluster.has_fired(point) and all_workers:
            all_workers = False
            for name in workers:
                # The one that the point has killed, or is about to, may be away.
                with suppress(KeyError, ProcessLookupError):
                    cluster.kill(name)
    assert cluster.has_fired(point), f"{point} was not reached"
    wait_until(lambda: any(cluster.pids().get(name, pid) != pid for name, pid in pids.items()), "the dead one is back")
    cluster.wait_for_gpus()


def _move_one(cluster: Cluster, load: Load) -> None:
    """Move the job that has most of its way before it; it may end first, or there may be no room."""
    job_ids = list(load.jobs)
    views = zip(job_ids, cluster.live.jobs.views(job_ids), strict=True)
    running = [(view.num_tokens, job_id) for job_id, view in views if view and view.status is JobStatus.RUNNING]
    if running:
        with suppress(ConflictError):
            Mover(cluster.live).move(min(running)[1], MigrationReason.OPERATOR)
