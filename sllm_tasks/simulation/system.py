"""What is compared: a serving system as a policy, a loader and a few habits, on hardware that is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Protocol

from sllm_tasks.estimators.base import Estimates
from sllm_tasks.policy.decision import Decision
from sllm_tasks.policy.settings import PolicySettings
from sllm_tasks.policy.view import ClusterView, WaitingJob
from sllm_tasks.simulation.links import Discipline


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A decision, and replicas whose running jobs are killed for it and start anew."""

    decision: Decision
    preempted: tuple[str, ...] = ()


class Policy(Protocol):
    """Decides for one job at a time; may remember, but depends on nothing but what it is told."""

    def decide(self, view: ClusterView, job: WaitingJob, estimates: Estimates) -> Order:
        """Decide for one job."""

    def drained(self, view: ClusterView, job: WaitingJob) -> tuple[str, ...]:
        """Replicas that take no more jobs because this one waits."""

    def opened(self, view: ClusterView, jobs: Sequence[WaitingJob]) -> tuple[str, ...]:
        """Replicas that take jobs again; `jobs` is all that wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """How checkpoints get to gpus."""

    #: Of loads that pass the same disk or network card.
    discipline: Discipline
    #: Of every load, besides moving the bytes.
    start_s: float
    #: Of one load, where the loader is slower than the hardware.
    max_bytes_per_s: float = inf
    #: What was loaded stays in the node's DRAM, least recently used out first.
    keeps_in_dram: bool = True
    #: What was downloaded stays on the node's SSD, likewise.
    keeps_on_ssd: bool = True
    #: A download is complete before the load begins; otherwise bytes go on as they come.
    downloads_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """One of the compared."""

    name: str
    title: str
    #: Makes its policy from a seed.
    make_policy: Callable[[int], Policy]
    loader: Loader
    #: Idle replicas stay for so many times what their load took, and for at least so long.
    keep_alive_loads: float = 0.0
    #: None: adaptive, as the router's.
    keep_alive_s: float | None = 0.0
    #: Then replicas are also loaded before their model's next job is due.
    prewarms: bool = False
    #: And this is what a second that somebody waits for a load may cost, in seconds of an idle gpu.
    waiting_worth: float = PolicySettings().waiting_worth
    #: Checkpoints are placed on SSDs beforehand.
    has_store: bool = True
    #: Checkpoints are placed in DRAM as far as they fit, and brought there while nobody wants the disk.
    fills_dram: bool = False
    #: A replica reads one prompt after the other, as ours does; otherwise those of all jobs that come (ADR 43).
    reads_in_turn: bool = False
    #: A job whose node dies goes on from its tokens; otherwise it starts anew.
    resumes: bool = False
