"""What the cases share."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.cluster import Cluster
from tests.support.load import Load, questions

Case = Callable[[Cluster, Load], None]

QUESTIONS = questions(20, max_tokens=36)
FIRST, REST = QUESTIONS[:14], QUESTIONS[14:]


def start(load: Load) -> None:
    """Submit most of the load and wait until some of it decodes."""
    load.submit(FIRST, num_watched=6)
    load.wait_for_tokens(8, num_jobs=3)


def busiest_worker(cluster: Cluster) -> str:
    """Name of the process whose gpu has most jobs."""
    gpus = cluster.gpus()
    return "worker-" + max(gpus, key=lambda gpu: cluster.redis.scard(f"sllm:gpu:{gpu}:jobs"))
