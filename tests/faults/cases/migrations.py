"""Workers that die while a job moves between them, at each step of the protocol."""

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


def _killed_at(cluster: Cluster, load: Load, point: str) -> None:
    pids = cluster.pids()
    cluster.arm(point, "kill9")
    for first in range(0, len(QUESTIONS), _GROUP):
        load.submit(QUESTIONS[first : first + _GROUP], num_watched=2)
        deadline_s = time.monotonic() + _MOVING_S
        while not cluster.has_fired(point) and time.monotonic() < deadline_s:
            _move_one(cluster, load)
            time.sleep(0.05)
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
