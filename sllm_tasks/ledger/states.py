"""States and kinds of what the ledger keeps, importable by those that never open a database."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class ModelState(StrEnum):
    """Whether a model takes jobs."""

    #: Its first deployment runs; names, shapes and architecture are not checked yet.
    DEPLOYING = "deploying"
    #: Takes jobs, also while it is deployed again and after that has failed.
    READY = "ready"
    #: It could never be deployed; the row says why.
    FAILED = "failed"
    #: Takes no more jobs; its replicas are being unloaded.
    DELETING = "deleting"


class OperationStatus(StrEnum):
    """Where a piece of admin work stands."""

    #: Recorded; nobody has taken it.
    PENDING = "pending"
    #: A node agent or control works on it.
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


#: Every change of status that may happen. Back to PENDING: whoever ran it died.
OPERATION_TRANSITIONS: Mapping[OperationStatus, frozenset[OperationStatus]] = {
    OperationStatus.PENDING: frozenset({OperationStatus.RUNNING, OperationStatus.FAILED, OperationStatus.CANCELED}),
    OperationStatus.RUNNING: frozenset(
        {
            OperationStatus.PENDING,
            OperationStatus.SUCCEEDED,
            OperationStatus.FAILED,
            OperationStatus.CANCELED,
        }
    ),
    OperationStatus.SUCCEEDED: frozenset(),
    OperationStatus.FAILED: frozenset(),
    OperationStatus.CANCELED: frozenset(),
}

ENDED_OPERATION_STATUSES = frozenset(status for status, after in OPERATION_TRANSITIONS.items() if not after)


class BatchStatus(StrEnum):
    """Where a batch stands."""

    #: Recorded; its file is yet to be read.
    VALIDATING = "validating"
    #: Its lines become jobs, a few at a time.
    IN_PROGRESS = "in_progress"
    #: All that will be answered is; the files of results are being written.
    FINALIZING = "finalizing"
    #: Its user wants no more of it; its jobs are being stopped.
    CANCELING = "canceling"
    #: Every line has its answer or its error.
    COMPLETED = "completed"
    #: Its file cannot be worked off.
    FAILED = "failed"
    #: Its time ran out; what was answered by then can be had.
    EXPIRED = "expired"
    CANCELED = "canceled"


#: Every change of status that may happen.
BATCH_TRANSITIONS: Mapping[BatchStatus, frozenset[BatchStatus]] = {
    BatchStatus.VALIDATING: frozenset({BatchStatus.IN_PROGRESS, BatchStatus.FAILED, BatchStatus.CANCELING}),
    BatchStatus.IN_PROGRESS: frozenset({BatchStatus.FINALIZING, BatchStatus.CANCELING}),
    BatchStatus.FINALIZING: frozenset({BatchStatus.COMPLETED, BatchStatus.EXPIRED}),
    BatchStatus.CANCELING: frozenset({BatchStatus.CANCELED}),
    BatchStatus.COMPLETED: frozenset(),
    BatchStatus.FAILED: frozenset(),
    BatchStatus.EXPIRED: frozenset(),
    BatchStatus.CANCELED: frozenset(),
}

ENDED_BATCH_STATUSES = frozenset(status for status, after in BATCH_TRANSITIONS.items() if not after)


class Role(StrEnum):
    """What a user of the admin UI may do; each may do what the one before may."""

    #: See everything but secrets.
    VIEWER = "viewer"
    #: Run and stop jobs, move checkpoints, hold queues back.
    OPERATOR = "operator"
    #: Everything, users and API keys included.
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Whether this role may do what another one may."""
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(other)


class AttemptExit(StrEnum):
    """Why an attempt of a job is over."""

    #: The job ended with it, in whichever status.
    JOB_ENDED = "job_ended"
    #: Its worker died or lost its lease.
    WORKER_LOST = "worker_lost"
    #: Its worker gave the job back: drain, shutdown, a load that failed.
    HANDED_BACK = "handed_back"
    #: The live state was lost and the job was published again.
    SUPERSEDED = "superseded"


class DeliveryStatus(StrEnum):
    """What has become of a message to a webhook; it may be sent again from any of these."""

    #: To be sent, or to be sent again after a failed try.
    PENDING = "pending"
    #: The receiver has answered with a status of 200 to 299.
    DELIVERED = "delivered"
    #: Given up, or its webhook was disabled.
    FAILED = "failed"


class WebhookEvent(StrEnum):
    """What a webhook may be told of."""

    JOB_SUCCEEDED = "job.succeeded"
    JOB_FAILED = "job.failed"
    JOB_CANCELED = "job.canceled"
    JOB_EXPIRED = "job.expired"


#: What is sent when somebody asks for it, to find out whether it arrives.
TEST_EVENT = "webhook.test"
