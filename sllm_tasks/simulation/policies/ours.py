"""Our own system: the router's policy, called as the router calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sllm_tasks.estimators.base import Estimates
from sllm_tasks.policy.assign import assign
from sllm_tasks.policy.drain import replicas_to_drain, replicas_to_open
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, WaitingJob
from sllm_tasks.simulation.links import Discipline
from sllm_tasks.simulation.policies.random_gpu import SERVERLESSLLM_START_S
from sllm_tasks.simulation.system import Loader, Order, System

#: Idle replicas are evicted when memory is wanted, so keeping them costs nothing.
_KEEP_ALIVE_S: Final = 600.0


class Ours:
    """`policy.assign` and `policy.drain`."""

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings

    def decide(self, view: ClusterView, job: WaitingJob, estimates: Estimates) -> Order:
        """What the router would do."""
        return Order(decision=assign(view, job, estimates, self._settings))

    def drained(self, view: ClusterView, job: WaitingJob) -> tuple[str, ...]:
        """What the router would close to new jobs."""
        return replicas_to_drain(view, job)

    def opened(self, view: ClusterView, jobs: Sequence[WaitingJob]) -> tuple[str, ...]:
        """What the router would open again."""
        return replicas_to_open(view, jobs)


def _make(seed: int) -> Ours:  # noqa: ARG001 - one signature for all systems
    # Simulated replicas read prompts side by side: `simulation.decoding`.
    return Ours(PolicySettings(reads_in_turn=False))


OURS: Final = System(
    name="ours",
    title="sllm-tasks",
    make_policy=_make,
    # The same start as the paper's loader, so that only the order of loads differs.
    loader=Loader(discipline=Discipline.REMAINING, start_s=SERVERLESSLLM_START_S),
    keep_alive_s=_KEEP_ALIVE_S,
    # `sllm place set --tier dram` for every model.
    fills_dram=True,
    resumes=True,
)
