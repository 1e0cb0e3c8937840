"""The life of a live migration: its states and their one transition table."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class MigrationState(StrEnum):
    """Where a live migration stands."""

    #: Decided, and room on the target is reserved; the target has not answered yet.
    PLANNED = "planned"
    #: The same, and the target has to load the checkpoint first.
    LOADING = "loading"
    #: The target catches up, round by round, while the source goes on.
    CATCHING_UP = "catching_up"
    #: The target owns the job and has not written a token yet.
    HANDING_OVER = "handing_over"
    #: The target goes on with the job.
    SUCCEEDED = "succeeded"
    #: The job ended at the source first.
    NOT_NEEDED = "not_needed"
    #: Source or target could not go on; the job has lost nothing.
    FAILED = "failed"
    #: Stopped by an operator.
    ABORTED = "aborted"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing can follow."""
        return not MIGRATION_TRANSITIONS[self]


_ENDED_EARLY = frozenset({MigrationState.NOT_NEEDED, MigrationState.FAILED, MigrationState.ABORTED})

#: Every change of state that may happen; whatever is not here is a bug.
MIGRATION_TRANSITIONS: Mapping[MigrationState, frozenset[MigrationState]] = {
    MigrationState.PLANNED: _ENDED_EARLY | {MigrationState.CATCHING_UP},
    MigrationState.LOADING: _ENDED_EARLY | {MigrationState.CATCHING_UP},
    MigrationState.CATCHING_UP: _ENDED_EARLY | {MigrationState.HANDING_OVER},
    # There is no way back: the job is the target's, and goes on there or as its next attempt.
    MigrationState.HANDING_OVER: frozenset({MigrationState.SUCCEEDED, MigrationState.FAILED}),
    MigrationState.SUCCEEDED: frozenset(),
    MigrationState.NOT_NEEDED: frozenset(),
    MigrationState.FAILED: frozenset(),
    MigrationState.ABORTED: frozenset(),
}


class MigrationReason(StrEnum):
    """Why a job moves."""

    #: Another model is to have its gpu, on a node that has that model's checkpoint.
    LOCALITY = "locality"
    #: Its gpu takes no more work, by an operator's wish.
    DRAIN = "drain"
    #: Its worker leaves.
    SHUTDOWN = "shutdown"
    #: A model over several gpus needs them free on one node.
    DEFRAGMENTATION = "defragmentation"
    OPERATOR = "operator"
