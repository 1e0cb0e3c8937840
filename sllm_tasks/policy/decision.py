"""What comes of a decision: where a job goes, what that costs, and what else it could have been."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sllm_tasks.cluster import GpuId
from sllm_tasks.estimators.estimate import ZERO, Estimate


class AssignmentPath(StrEnum):
    """How a job gets its replica."""

    WARM = "warm"
    LOAD_DRAM = "load_dram"
    LOAD_SSD = "load_ssd"
    LOAD_REMOTE = "load_remote"
    #: Running jobs are moved away first, then the checkpoint is loaded.
    MIGRATE = "migrate"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A running job goes elsewhere: to a replica that there is, or to one that is loaded for it on `gpus`.

    Jobs of one replica that go to the same gpus share the new one.
    """

    job_id: str
    from_replica: str
    to_replica: str | None = None
    gpus: tuple[GpuId, ...] = ()
    #: Idle replicas that go before the new one is loaded.
    victims: tuple[str, ...] = ()
    #: Until it has arrived, and for how much of that its reader waits.
    arrives: Estimate = ZERO
    pause_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The decision for one job: a replica, or gpus for a new one after its victims are gone, or neither (wait)."""

    path: AssignmentPath
    replica_id: str | None = None
    gpus: tuple[GpuId, ...] = ()
    victims: tuple[str, ...] = ()
    #: Running jobs that leave replicas on `gpus`, whose memory is the new one's afterwards.
    moves: tuple[Move, ...] = ()
    #: Why it waits.
    reason: str = ""
    #: The cluster has no gpu of the size that its model needs, whoever ends.
    fits_nowhere: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Something that could be done, with its price."""

    assignment: Assignment
    #: Until the job's first token: the sum of its parts, and that with an interval that earlier starts have corrected.
    total: Estimate
    start: Estimate
    #: What of the sum the prompts take that are read before the job's own, of jobs that wait for the same load.
    before_s: float = 0.0
    #: What it costs others: reloads of what is evicted, pauses of what is moved.
    others_s: float = 0.0

    @property
    def price_s(self) -> float:
        """What the policy compares: without prompts that are read before, for which loads would cost more (ADR 43)."""
        return self.total.seconds - self.before_s + self.others_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is done, and the best of what could have been, cheapest first; a wait without a forecast has no price."""

    choice: Assignment
    candidates: tuple[Candidate, ...] = ()
    #: Replicas whose jobs might have been moved, had they been known.
    unknown: tuple[str, ...] = ()

    @property
    def chosen(self) -> Candidate | None:
        """The option that was chosen, None for a wait without a forecast."""
        return next((candidate for candidate in self.candidates if candidate.assignment == self.choice), None)

    @property
    def start(self) -> Estimate | None:
        """The predicted time until the job's first token, None for a wait without a forecast."""
        return None if self.chosen is None else self.chosen.start
