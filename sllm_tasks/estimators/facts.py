"""What was measured: the only thing that estimators learn from, whether it comes from the ledger or a simulation."""

from __future__ import annotations

from dataclasses import dataclass

from sllm_tasks.cluster import Tier
from sllm_tasks.estimators.estimate import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFact:
    """A checkpoint was loaded."""

    node: str
    #: The slowest one that it came through.
    tier: Tier
    num_bytes: int
    seconds: float
    #: What passed the same disk or link meanwhile, before it.
    queued_bytes: int = 0
    #: False: it went no further than the DRAM or the SSD, and tells of that tier alone.
    to_gpu: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFact:
    """A job ended."""

    model: str
    prompt_tokens: int
    completion_tokens: int
    #: From its prefill's begin to its first token.
    first_token_s: float | None = None
    #: From one of its tokens to the next, on average.
    token_s: float | None = None
    #: Jobs that were decoded with it, itself included.
    batch: int = 1
    #: Where it ran: the gpus of a node are of one kind. Empty if that is not known.
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationFact:
    """A running job was moved to a replica that was loaded."""

    model: str
    batch: int
    #: Prompt and output that its target had to read.
    num_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFact:
    """A job had its first token after a decision that had an estimate of that."""

    #: How it was to start.
    path: str
    #: The sum of the estimates of its parts.
    total: Estimate
    actual_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrivalFact:
    """A job was submitted; times of one model may come in any order."""

    model: str
    #: Of any clock that the others use too.
    at_s: float


Fact = LoadFact | JobFact | MigrationFact | StartFact | ArrivalFact
