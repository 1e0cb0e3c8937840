"""What the end of an operation means for the inventory."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from sllm_tasks.engines.registry import engine_names
from sllm_tasks.errors import ErrorCode, NotFoundError
from sllm_tasks.jobs import JobError
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.inventory import (
    DeployedModel,
    NewCheckpoint,
    add_checkpoint,
    get_model,
    note_deploy_failed,
    note_deployed,
)
from sllm_tasks.ledger.operations import fail_operation, succeed_operation
from sllm_tasks.ledger.tables import ModelRow, OperationRow
from sllm_tasks.operations import OperationKind


def commit_success(session: Session, row: OperationRow, attempt: int, result: dict[str, Any], now: datetime) -> None:
    """End an operation that worked and enter its result in the inventory, both or neither."""
    shown: JsonObject = {name: value for name, value in result.items() if name != "files"}
    if not succeed_operation(session, row.id, attempt=attempt, result=shown, now=now):
        return
    if row.kind == OperationKind.DEPLOY:
        _enter_deployed(session, row.target, row.args, result, now)


def commit_failure(session: Session, row: OperationRow, attempt: int, error: JobError, now: datetime) -> None:
    """End an operation that did not work; a model that was being deployed says why."""
    if fail_operation(session, row.id, attempt=attempt, error=error, now=now) and row.kind == OperationKind.DEPLOY:
        note_deploy_failed(session, row.target, error.message, now=now)


def refusal(session: Session, row: OperationRow, result: dict[str, Any], largest_gpu_bytes: int) -> JobError | None:
    """Say why a sound checkpoint cannot be served here; None when it can, or when no gpu is up to compare with."""
    if row.kind != OperationKind.DEPLOY:
        return None
    try:
        model = get_model(session, row.target)
    except NotFoundError:
        return None
    if model.engine not in engine_names():
        message = f"no engine is called {model.engine!r}; installed: {', '.join(engine_names())}"
        return JobError(code=ErrorCode.INVALID_REQUEST, message=message)
    if not largest_gpu_bytes:
        return None
    context, needed = _fit(model, result)
    if needed <= largest_gpu_bytes:
        return None
    message = (
        f"a replica needs {needed} bytes on each gpu ({result['weights_bytes']} bytes of weights, and the KV cache of "
        f"max_jobs={model.max_jobs} jobs of context={context} tokens); the largest gpu has {largest_gpu_bytes}; "
        "deploy with a smaller context or max_jobs"
    )
    return JobError(code=ErrorCode.OUT_OF_MEMORY, message=message)


def bytes_per_gpu(weights_bytes: int, kv_bytes_per_token: int, *, max_jobs: int, context: int, num_gpus: int) -> int:
    """Return what a replica reserves on each gpu: its part of the weights and of the KV cache of all its jobs."""
    return -(-(weights_bytes + kv_bytes_per_token * max_jobs * context) // num_gpus)


def _enter_deployed(session: Session, name: str, args: JsonObject, result: dict[str, Any], now: datetime) -> None:
    files = result["files"]
    add_checkpoint(
        session,
        NewCheckpoint(
            digest=result["digest"],
            source=str(args["source"]),
            architecture=result["architecture"],
            dtype=result["dtype"],
            num_bytes=result["num_bytes"],
            num_parameters=result["num_parameters"],
            num_partitions=1,
            config=files["config"],
            generation_config=files["generation_config"],
            tokenizer=files["tokenizer"],
            tokenizer_config=files["tokenizer_config"],
            chat_template=files["chat_template"],
            eos_token_ids=tuple(result["eos_token_ids"]),
            created_at=now,
        ),
    )
    try:
        model = get_model(session, name)
    except NotFoundError:
        return
    context, needed = _fit(model, result)
    deployed = DeployedModel(
        checkpoint=result["digest"],
        weights_bytes=result["weights_bytes"],
        kv_bytes_per_token=result["kv_bytes_per_token"],
        bytes_per_gpu=needed,
        context=context,
        dtype=result["dtype"],
    )
    note_deployed(session, name, deployed, now=now)


def _fit(model: ModelRow, result: dict[str, Any]) -> tuple[int, int]:
    """Return the context that model and checkpoint allow, and the bytes that takes on each gpu."""
    context = min(model.context, result["max_context"])
    needed = bytes_per_gpu(
        result["weights_bytes"],
        result["kv_bytes_per_token"],
        max_jobs=model.max_jobs,
        context=context,
        num_gpus=model.num_gpus,
    )
    return context, needed
