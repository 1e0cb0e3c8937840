"""The states of a job and the one table of what may follow what."""

from __future__ import annotations

import pytest

from sllm_tasks.errors import InvalidTransitionError
from sllm_tasks.jobs import ACTIVE_STATUSES, JOB_TRANSITIONS, TERMINAL_STATUSES, JobStatus, Outcome

_Q, _S, _R, _C = JobStatus.QUEUED, JobStatus.STARTING, JobStatus.RUNNING, JobStatus.CANCELING
_DONE, _FAILED, _CANCELED, _EXPIRED = (
    JobStatus.SUCCEEDED,
    JobStatus.FAILED,
    JobStatus.CANCELED,
    JobStatus.EXPIRED,
)

#: Said once more and on purpose: whoever changes the table has to mean it.
_LEGAL = {
    (_Q, _S), (_Q, _C), (_Q, _CANCELED), (_Q, _EXPIRED), (_Q, _FAILED),
    (_S, _Q), (_S, _R), (_S, _C), (_S, _DONE), (_S, _FAILED), (_S, _CANCELED), (_S, _EXPIRED),
    (_R, _Q), (_R, _C), (_R, _DONE), (_R, _FAILED), (_R, _CANCELED),
    (_C, _CANCELED), (_C, _DONE), (_C, _FAILED), (_C, _EXPIRED),
}  # fmt: skip


def test_a_status_changes_only_as_the_table_says() -> None:
    assert {(old, new) for old, after in JOB_TRANSITIONS.items() for new in after} == _LEGAL


def test_a_job_that_ended_cannot_end_again() -> None:
    assert {old for old, new in _LEGAL if old in TERMINAL_STATUSES} == set()
    assert {_DONE, _FAILED, _CANCELED, _EXPIRED} == TERMINAL_STATUSES


def test_every_status_is_either_active_or_terminal_and_in_the_table() -> None:
    assert set(JobStatus) == JOB_TRANSITIONS.keys() == ACTIVE_STATUSES | TERMINAL_STATUSES
    assert not ACTIVE_STATUSES & TERMINAL_STATUSES


def test_every_active_job_can_still_end() -> None:
    for status in ACTIVE_STATUSES:
        assert JOB_TRANSITIONS[status] & TERMINAL_STATUSES


@pytest.mark.parametrize("status", sorted(ACTIVE_STATUSES))
def test_an_outcome_is_an_end(status: JobStatus) -> None:
    with pytest.raises(InvalidTransitionError):
        Outcome(status=status)
