"""Models, operations, decisions, nodes, placements, queues, keys and users as the API writes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

from sllm_tasks.cluster import Gpu, Tier, TierUsage
from sllm_tasks.errors import ErrorCode
from sllm_tasks.jobs import JobError
from sllm_tasks.ledger.inventory import StoredCheckpoint
from sllm_tasks.ledger.loads import MeasuredLoad
from sllm_tasks.ledger.placement_progress import PlacementProgress
from sllm_tasks.ledger.placements import is_met
from sllm_tasks.ledger.tables import (
    ApiKeyRow,
    DecisionRow,
    ModelRow,
    OperationRow,
    PausedQueueRow,
    PlacementRow,
    TenantRow,
    UserRow,
)
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.fleet import ReplicaOrder
from sllm_tasks.livestate.queues import QueueDepth
from sllm_tasks.policy.placement import Proposal
from webapp.outgoing import time_json

AdminJson = dict[str, object]


#: What a deployment asks for besides its source, as the model shows it once it serves that.
_SETTINGS = ("engine", "exactness", "num_gpus", "max_jobs", "context", "keep_alive_s", "min_replicas", "max_replicas")


def model_json(row: ModelRow, deployment: OperationRow | None) -> AdminJson:
    """A model: what serves (or is to, while nothing ever did), and the deployment that was asked for last."""
    return {
        "id": row.name,
        "object": "model",
        "state": row.state,
        "error": row.error,
        "source": row.source,
        "checkpoint": row.checkpoint,
        "engine": row.engine,
        "dtype": row.dtype,
        "exactness": row.exactness,
        "num_gpus": row.num_gpus,
        "max_jobs": row.max_jobs,
        "context": row.context,
        "keep_alive_s": "auto" if row.keep_alive_auto else row.keep_alive_s,
        "min_replicas": row.min_replicas,
        "max_replicas": row.max_replicas,
        "weights_bytes": row.weights_bytes,
        "kv_bytes_per_token": row.kv_bytes_per_token,
        "bytes_per_gpu": row.bytes_per_gpu,
        "deployment": None if deployment is None else _deployment_json(deployment),
        "version": row.version,
        "created_at": time_json(row.created_at),
        "updated_at": time_json(row.updated_at),
    }


def checkpoint_json(row: StoredCheckpoint) -> AdminJson:
    """A checkpoint without its texts."""
    return {
        "id": row.digest,
        "object": "checkpoint",
        "source": row.source,
        "architecture": row.architecture,
        "dtype": row.dtype,
        "num_bytes": row.num_bytes,
        "num_parameters": row.num_parameters,
        "num_partitions": row.num_partitions,
        "models": list(row.models),
        "created_at": time_json(row.created_at),
    }


def _deployment_json(row: OperationRow) -> AdminJson:
    return {
        "operation": row.id,
        "state": row.status,
        "error": _error_json(row),
        "progress": row.progress,
        "source": row.args["source"],
        "node": row.node,
        **{name: row.args[name] for name in _SETTINGS},
        # Operations of earlier versions do not say.
        **({"keep_alive_s": "auto"} if row.args.get("keep_alive_auto") else {}),
        "created_at": time_json(row.created_at),
        "ended_at": time_json(row.ended_at),
    }


def _error_json(row: OperationRow) -> AdminJson | None:
    return None if row.error_code is None else {"code": row.error_code, "message": row.error_message}


def operation_json(row: OperationRow) -> AdminJson:
    """A piece of administrative work."""
    return {
        "id": row.id,
        "object": "operation",
        "kind": row.kind,
        "target": row.target,
        "status": row.status,
        "progress": row.progress,
        "result": row.result,
        "error": _error_json(row),
        "node": row.node,
        "attempts": row.attempts,
        "requested_by": row.requested_by,
        "created_at": time_json(row.created_at),
        "started_at": time_json(row.started_at),
        "ended_at": time_json(row.ended_at),
    }


def decision_json(row: DecisionRow) -> AdminJson:
    """What the router chose; seconds are from the decision to the job's first token."""
    return {
        "id": row.id,
        "object": "decision",
        "job_id": row.job_id,
        "attempt": row.attempt,
        "path": row.path,
        "choice": row.choice,
        "candidates": row.candidates,
        "predicted_s": row.predicted_s,
        "actual_s": row.actual_s,
        "created_at": time_json(row.at),
    }


def placement_json(row: PlacementRow, progress: PlacementProgress, *, is_alive: bool) -> AdminJson:
    """Where a checkpoint should be and is, on one node, and what stands between the two."""
    error = progress.error
    if error is None and not is_alive and not is_met(row):
        error = JobError(code=ErrorCode.UNAVAILABLE, message=f"the agent of node {row.node} is not alive")
    return {
        "id": f"{row.checkpoint}@{row.node}",
        "object": "placement",
        "checkpoint": row.checkpoint,
        "node": row.node,
        "desired": row.desired,
        "actual": row.actual,
        "pinned": row.pinned,
        "met": is_met(row),
        "operation": progress.operation,
        "error": None if error is None else {"code": error.code, "message": error.message},
        "retry_at": None if progress.error is None else time_json(progress.retry_at),
        "updated_at": time_json(row.updated_at),
    }


def proposal_json(proposal: Proposal) -> AdminJson:
    """A placement that should change."""
    return {
        "id": f"{proposal.checkpoint}@{proposal.node}",
        "object": "placement_proposal",
        "checkpoint": proposal.checkpoint,
        "node": proposal.node,
        "desired": proposal.desired,
        "proposed": proposal.proposed,
    }


def queue_json(name: str, depth: QueueDepth, paused: PausedQueueRow | None, now_ms: int) -> AdminJson:
    """The jobs that wait for a model, or for any."""
    return {
        "id": name,
        "object": "queue",
        "paused": paused is not None,
        "paused_by": None if paused is None else paused.paused_by,
        "paused_at": None if paused is None else time_json(paused.paused_at),
        "depth": depth.num_waiting,
        "oldest_age_ms": None if depth.oldest_ms is None else max(0, now_ms - depth.oldest_ms),
    }


def tenant_json(row: TenantRow) -> AdminJson:
    """What holds for a tenant; null: as the server's settings say."""
    return {
        "id": row.id,
        "object": "tenant",
        "weight": row.weight,
        "max_queued_jobs": row.max_queued_jobs,
        "max_running_jobs": row.max_running_jobs,
        "max_requests_per_min": row.max_requests_per_min,
        "max_tokens_per_min": row.max_tokens_per_min,
        "created_at": time_json(row.created_at),
    }


def key_json(row: ApiKeyRow) -> AdminJson:
    """An API key without its secret."""
    return {
        "id": row.id,
        "object": "key",
        "name": row.name,
        "tenant": row.tenant,
        "scopes": row.scopes,
        "created_at": time_json(row.created_at),
        "last_used_at": time_json(row.last_used_at),
        "revoked_at": time_json(row.revoked_at),
    }


def user_json(row: UserRow) -> AdminJson:
    """A user of the admin UI."""
    return {
        "id": row.name,
        "object": "user",
        "role": row.role,
        "has_password": row.password_hash is not None,
        "created_at": time_json(row.created_at),
        "signed_in_at": time_json(row.signed_in_at),
        "disabled_at": time_json(row.disabled_at),
    }


def nodes_json(live: LiveState, measured: Iterable[MeasuredLoad], *, asked: str | None = None) -> list[AdminJson]:
    """Every node that lives, or whose gpus do, with what is on it, and the one `asked` for; raises UnavailableError."""
    known = {node.name: node for node in live.fleet.nodes(live.now_ms())}
    gpus = live.fleet.gpus()
    rates = {(load.node, load.tier): load for load in measured}
    names = sorted(known.keys() | {gpu.id.node for gpu in gpus} | ({asked} if asked else set()))
    return [
        {
            "id": name,
            "object": "node",
            "agent": "up" if name in known else "down",
            "url": known[name].url if name in known else None,
            "checkpoints": sorted(known[name].checkpoints) if name in known else [],
            "in_dram": sorted(known[name].in_dram) if name in known else [],
            "tiers": {
                Tier.SSD: _tier_json(known[name].ssd if name in known else None, rates.get((name, Tier.SSD))),
                Tier.DRAM: _tier_json(known[name].dram if name in known else None, rates.get((name, Tier.DRAM))),
            },
            "gpus": [_gpu_json(live, gpu) for gpu in gpus if gpu.id.node == name],
        }
        for name in names
    ]


def _tier_json(usage: TierUsage | None, measured: MeasuredLoad | None) -> AdminJson:
    rate = None if measured is None or not measured.seconds else measured.num_bytes / measured.seconds
    return {
        "capacity_bytes": None if usage is None else usage.capacity_bytes,
        "used_bytes": None if usage is None else usage.used_bytes,
        "error": None if usage is None else usage.error,
        "bytes_per_s": rate,
        "measured_at": None if measured is None else time_json(measured.at),
    }


def _gpu_json(live: LiveState, gpu: Gpu) -> AdminJson:
    orders = live.fleet.replicas(live.fleet.replicas_on(gpu.id))
    return {
        "id": str(gpu.id),
        "index": gpu.id.index,
        "state": gpu.state,
        "device": gpu.device,
        "worker": gpu.worker_id,
        "capacity_bytes": gpu.capacity_bytes,
        "reserved_bytes": gpu.reserved_bytes,
        "stats": live.fleet.gpu_stats(gpu.id),
        "replicas": [_replica_json(order) for order in orders if order is not None],
    }


def _replica_json(order: ReplicaOrder) -> AdminJson:
    replica = order.replica
    return {
        "id": replica.id,
        "model": replica.model,
        "checkpoint": replica.checkpoint,
        "state": replica.state,
        "gpus": [str(gpu) for gpu in replica.gpus],
        "bytes_per_gpu": replica.bytes_per_gpu,
        "num_jobs": replica.num_jobs,
        "max_jobs": replica.max_jobs,
        "engine": replica.engine,
        "class": None if order.equality is None else asdict(order.equality),
    }
