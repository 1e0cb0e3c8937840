"""The Python client: submit jobs, follow them, manage models. It speaks REST and imports nothing of the server."""

from sllm_tasks.client.asynchronous import AsyncClient, AsyncJob
from sllm_tasks.client.blocking import Client, Job
from sllm_tasks.client.errors import (
    ApiError,
    AuthError,
    ClientError,
    JobCanceledError,
    JobFailedError,
    JobTimeoutError,
    NotFoundApiError,
    OperationFailedError,
    OperationTimeoutError,
    ServerUnavailableError,
)
from sllm_tasks.client.records import JobRecord, JobResult, OperationRecord, Snapshot, StreamItem, Token

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncJob",
    "AuthError",
    "Client",
    "ClientError",
    "Job",
    "JobCanceledError",
    "JobFailedError",
    "JobRecord",
    "JobResult",
    "JobTimeoutError",
    "NotFoundApiError",
    "OperationFailedError",
    "OperationRecord",
    "OperationTimeoutError",
    "ServerUnavailableError",
    "Snapshot",
    "StreamItem",
    "Token",
]
