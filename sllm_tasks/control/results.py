"""What the end of an operation means for the inventory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from sllm_tasks.cluster import Gpu, Tier
from sllm_tasks.engines.registry import engine_names
from sllm_tasks.errors import ErrorCode
from sllm_tasks.ids import new_id
from sllm_tasks.jobs import JobError
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.inventory import (
    DeployedModel,
    ModelSettings,
    NewCheckpoint,
    add_checkpoint,
    lock_model,
    note_deploy_failed,
    note_deployed,
)
from sllm_tasks.ledger.loads import MeasuredLoad, add_loads
from sllm_tasks.ledger.operations import NewOperation, add_operation, fail_operation, list_operations, succeed_operation
from sllm_tasks.ledger.pages import PageRequest
from sllm_tasks.ledger.tables import OperationRow
from sllm_tasks.operations import OperationKind

#: Less than this tells how long it takes to begin, not how fast a tier is.
_TELLING_BYTES = 64 << 20
#: Reading gigabytes once more for every job that fails would keep the disk from those that wait for it.
_VERIFY_AGAIN_AFTER = timedelta(minutes=5)


def commit_success(session: Session, row: OperationRow, attempt: int, result: dict[str, Any], now: datetime) -> bool:
    """End an operation that worked and enter its result, both or neither; False if that attempt is over."""
    if row.kind == OperationKind.DEPLOY:
        lock_model(session, row.target)
    shown: JsonObject = {name: value for name, value in result.items() if name != "files"}
    if not succeed_operation(session, row.id, attempt=attempt, result=shown, now=now):
        return False
    if row.kind == OperationKind.DEPLOY:
        settings = ModelSettings.from_args(row.args)
        note_deployed(session, settings, _deployed(settings, result), deployment=row.id, now=now)
    add_loads(session, list(_measured(row, result, now)))
    return True


def _measured(row: OperationRow, result: dict[str, Any], now: datetime) -> Iterator[MeasuredLoad]:
    """How fast a tier was, as far as an operation tells."""

    def load(tier: Tier, checkpoint: str, num_bytes: int, seconds: float) -> MeasuredLoad:
        return MeasuredLoad(
            id=f"{row.id}-{tier}",
            checkpoint=checkpoint,
            node=str(row.args["node"]),
            gpu=None,
            tier=tier,
            num_bytes=num_bytes,
            seconds=seconds,
            at=now,
        )

    if row.kind == OperationKind.CALIBRATE:
        for tier in (Tier.SSD, Tier.DRAM):
            measured = result[tier]
            yield load(tier, result["checkpoint"], measured["num_bytes"], measured["seconds"])
    elif row.kind == OperationKind.FETCH and result.get("fetched_bytes", 0) >= _TELLING_BYTES:
        yield load(Tier.REMOTE, row.target, result["fetched_bytes"], result["seconds"])
    elif row.kind == OperationKind.PREFETCH and result["read_bytes"] >= _TELLING_BYTES:
        yield load(Tier.SSD, row.target, result["read_bytes"], result["seconds"])


def commit_failure(session: Session, row: OperationRow, attempt: int, error: JobError, now: datetime) -> bool:
    """End an operation that did not work, and its model if it never served; False if that attempt is over."""
    if row.kind != OperationKind.DEPLOY:
        return fail_operation(session, row.id, attempt=attempt, error=error, now=now)
    lock_model(session, row.target)
    if not fail_operation(session, row.id, attempt=attempt, error=error, now=now):
        return False
    note_deploy_failed(session, row.target, error.message, deployment=row.id, now=now)
    return True


def ask_to_verify(session: Session, checkpoint: str, node: str, *, now: datetime) -> None:
    """Have a node read its copy of a checkpoint, unless it is doing so or did a moment ago."""
    for row in list_operations(session, PageRequest(limit=50), target=checkpoint).rows:
        is_same = row.kind == OperationKind.VERIFY and row.args.get("node") == node
        if is_same and (row.ended_at is None or now - row.ended_at < _VERIFY_AGAIN_AFTER):
            return
    new = NewOperation(
        id=new_id("op"),
        kind=OperationKind.VERIFY,
        target=checkpoint,
        args={"node": node},
        requested_by="control",
        created_at=now,
    )
    add_operation(session, new)


def enter_checkpoint(session: Session, row: OperationRow, result: dict[str, Any], now: datetime) -> None:
    """Record what a deployment has imported, also when it is refused or superseded: the reconciler clears it away."""
    files = result["files"]
    add_checkpoint(
        session,
        NewCheckpoint(
            digest=result["digest"],
            source=str(row.args["source"]),
            architecture=result["architecture"],
            dtype=result["dtype"],
            num_bytes=result["num_bytes"],
            num_parameters=result["num_parameters"],
            num_partitions=result["num_partitions"],
            config=files["config"],
            generation_config=files["generation_config"],
            tokenizer=files["tokenizer"],
            tokenizer_config=files["tokenizer_config"],
            chat_template=files["chat_template"],
            eos_token_ids=tuple(result["eos_token_ids"]),
            created_at=now,
        ),
    )


def refusal(row: OperationRow, result: dict[str, Any], gpus: Sequence[Gpu]) -> JobError | None:
    """Say why a sound checkpoint cannot be served by gpus; None when it can, or when there are none to compare with."""
    settings = ModelSettings.from_args(row.args)
    if settings.engine not in engine_names():
        message = f"no engine is called {settings.engine!r}; installed: {', '.join(engine_names())}"
        return JobError(code=ErrorCode.INVALID_REQUEST, message=message)
    deployed = _deployed(settings, result)
    room_bytes = _room_bytes(gpus, settings.num_gpus)
    if not gpus or deployed.bytes_per_gpu <= room_bytes:
        return None
    if not room_bytes:
        message = f"a replica needs {settings.num_gpus} gpus of one node; no node has so many"
        return JobError(code=ErrorCode.OUT_OF_MEMORY, message=message)
    found = (
        f"the largest gpu has {room_bytes}"
        if settings.num_gpus == 1
        else f"no node has {settings.num_gpus} of more than {room_bytes}"
    )
    message = (
        f"a replica needs {deployed.bytes_per_gpu} bytes on each gpu ({deployed.weights_bytes} bytes of weights, and "
        f"the KV cache of max_jobs={settings.max_jobs} jobs of context={deployed.context} tokens); {found}; deploy "
        f"with a smaller context or max_jobs, or over more gpus"
    )
    return JobError(code=ErrorCode.OUT_OF_MEMORY, message=message)


def _room_bytes(gpus: Sequence[Gpu], num_gpus: int) -> int:
    """What a replica over so many gpus of one node may take on each at most; 0 when no node has so many."""
    nodes: dict[str, list[int]] = defaultdict(list)
    for gpu in gpus:
        nodes[gpu.id.node].append(gpu.capacity_bytes)
    enough = [sorted(sizes, reverse=True) for sizes in nodes.values() if len(sizes) >= num_gpus]
    return max((sizes[num_gpus - 1] for sizes in enough), default=0)


def bytes_per_gpu(settings: ModelSettings, result: dict[str, Any], context: int) -> int:
    """Return what a replica reserves on each gpu: as much as the one needs that gets most.

    That is its layers' weights and their KV cache of all jobs. The engine `exact` has a slot more than it has jobs, and
    in the default engine the largest buffer (the keys or the values of one layer) is there twice while its tokens are
    moved. Activations are not counted.
    """
    kv_bytes: int = result["kv_bytes_per_token"] * (settings.max_jobs + 1) * context
    num_buffers: int = 2 * result["num_layers"]

    def needed_bytes(weights_bytes: int, num_layers: int) -> int:
        num_held = 2 * num_layers + (1 if num_layers else 0)
        return weights_bytes - (-kv_bytes * num_held // num_buffers)

    return max(needed_bytes(share["weights_bytes"], share["num_layers"]) for share in result["gpu_shares"])


def _deployed(settings: ModelSettings, result: dict[str, Any]) -> DeployedModel:
    """Say what serving a checkpoint with these settings takes."""
    context = min(settings.context, result["max_context"])
    return DeployedModel(
        checkpoint=result["digest"],
        weights_bytes=result["weights_bytes"],
        kv_bytes_per_token=result["kv_bytes_per_token"],
        bytes_per_gpu=bytes_per_gpu(settings, result, context),
        context=context,
        dtype=result["dtype"],
    )
