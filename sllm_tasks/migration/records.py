"""What is known of one migration, and what source and target tell each other about it."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from sllm_tasks.cluster import GpuId
from sllm_tasks.migration.states import MigrationReason, MigrationState


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A migration as the live state has it; `num_sent` and `num_acked` count output tokens."""

    id: str
    job_id: str
    state: MigrationState
    reason: MigrationReason
    #: Of the job, when it began; the source may hand over only while they still are the job's.
    attempt: int
    epoch: int
    source_replica: str
    source_gpu: GpuId
    target_replica: str
    target_gpu: GpuId
    #: The last round that the source has sent, and the last one that the target has read.
    round_sent: int
    round_acked: int
    num_sent: int
    num_acked: int
    #: `PrefixHash` of the prompt and the acknowledged tokens, as the target has them; empty before it answered.
    acked_hash: str
    #: Tokens that the target reads per second, in its best round.
    target_rate: float
    #: The job's epoch since the target owns it; 0 before.
    new_epoch: int
    created_ms: int
    deadline_ms: int
    #: What the source has written for it.
    num_bytes: int
    #: Last token before to first token after, None before that.
    pause_ms: int | None
    #: Why it failed, empty if it did not.
    error: str
    #: Expected time until its job has arrived, and of the pause; None where nobody asked.
    predicted_s: float | None
    predicted_pause_s: float | None

    @property
    def is_settled(self) -> bool:
        """Whether the target has answered all that the source has said."""
        return self.round_acked == self.round_sent


class NoticeKind(StrEnum):
    """What a message on a gpu's channel is about."""

    #: Something has changed: read the migration.
    STATE = "state"
    #: A round; its tokens come along.
    TOKENS = "tokens"
    #: The target owns the job; the last tokens come along.
    RESUME = "resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A message about a migration; a lost one costs a second, for what it says is in the live state as well."""

    migration_id: str
    kind: NoticeKind
    #: Index of the first of the tokens.
    first: int = 0
    token_ids: tuple[int, ...] = ()


class StartAnswer(StrEnum):
    """What became of the wish to move a job."""

    OK = "ok"
    #: It waits, loads, reads its prompt or has ended: there is nothing to move.
    NOT_RUNNING = "not_running"
    #: It is on its way somewhere already.
    MOVING = "moving"
    #: Its workers died too often: it stays where it can be watched.
    SUSPECT = "suspect"
    #: It is there already.
    SAME = "same"
    #: The target has another checkpoint or engine.
    UNLIKE = "unlike"
    FULL = "full"
    #: The target is gone, or takes no more work.
    DEAD = "dead"
    #: A replica that was to make room has got a job meanwhile.
    BUSY = "busy"


class HandOver(StrEnum):
    """What became of a source's wish to hand over."""

    #: The job is the target's.
    OK = "ok"
    #: The migration is over, and the job still the source's.
    REFUSED = "refused"
    #: The job is neither's: somebody took it from the source.
    STALE = "stale"


class PrefixHash:
    """Of token ids in order; source and target must agree on it before the source stops."""

    def __init__(self, token_ids: Iterable[int] = ()) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.add(token_ids)

    def add(self, token_ids: Iterable[int]) -> Self:
        """Take more ids, and return itself."""
        self._hash.update(array("I", token_ids).tobytes())
        return self

    def __str__(self) -> str:
        return self._hash.hexdigest()
