"""All tables of the ledger; importing this fills `Base.metadata`."""

from sllm_tasks.ledger.columns import Base
from sllm_tasks.ledger.tables.access import ApiKeyRow, AuditRow, IdempotencyKeyRow, TenantRow
from sllm_tasks.ledger.tables.batches import BatchRefusalRow, BatchRow, FilePartRow, FileRow
from sllm_tasks.ledger.tables.drains import DrainRow
from sllm_tasks.ledger.tables.inventory import CheckpointRow, MeasuredLoadRow, ModelRow, PlacementRow
from sllm_tasks.ledger.tables.jobs import DecisionRow, JobAttemptRow, JobRow
from sllm_tasks.ledger.tables.migrations import MigrationRoundRow, MigrationRow
from sllm_tasks.ledger.tables.operations import OperationRow
from sllm_tasks.ledger.tables.people import LoginFailuresRow, LoginLinkRow, UserRow, UserSessionRow
from sllm_tasks.ledger.tables.queues import PausedQueueRow
from sllm_tasks.ledger.tables.webhooks import WebhookDeliveryRow, WebhookRow

__all__ = [
    "ApiKeyRow",
    "AuditRow",
    "Base",
    "BatchRefusalRow",
    "BatchRow",
    "CheckpointRow",
    "DecisionRow",
    "DrainRow",
    "FilePartRow",
    "FileRow",
    "IdempotencyKeyRow",
    "JobAttemptRow",
    "JobRow",
    "LoginFailuresRow",
    "LoginLinkRow",
    "MeasuredLoadRow",
    "MigrationRoundRow",
    "MigrationRow",
    "ModelRow",
    "OperationRow",
    "PausedQueueRow",
    "PlacementRow",
    "TenantRow",
    "UserRow",
    "UserSessionRow",
    "WebhookDeliveryRow",
    "WebhookRow",
]
