"""Migrations as the API writes them: from the ledger with their rounds, or from the live state as they stand."""

from __future__ import annotations

from collections.abc import Sequence

from sllm_tasks.ledger.tables import MigrationRoundRow, MigrationRow
from sllm_tasks.migration.records import Migration
from webapp.admin_json import AdminJson
from webapp.outgoing import time_json


def migration_json(row: MigrationRow, rounds: Sequence[MigrationRoundRow]) -> AdminJson:
    """A migration from the ledger."""
    return {
        "id": row.id,
        "object": "migration",
        "job_id": row.job_id,
        "state": row.state,
        "reason": row.reason,
        "source": [f"{row.source_node}.{index}" for index in row.source_gpus],
        "target": [f"{row.target_node}.{index}" for index in row.target_gpus],
        "rounds": [
            {"round": each.round, "num_tokens": each.num_tokens, "ms": round(each.seconds * 1000, 1)} for each in rounds
        ],
        "num_bytes": row.num_bytes,
        "predicted": _predicted_json(row.predicted_s, row.predicted_pause_s),
        "pause_ms": row.pause_ms,
        "error": row.error,
        "created_at": time_json(row.created_at),
        "ended_at": time_json(row.ended_at),
    }


def live_migration_json(migration: Migration) -> AdminJson:
    """A migration as it stands now."""
    return {
        "id": migration.id,
        "object": "migration",
        "job_id": migration.job_id,
        "state": migration.state,
        "reason": migration.reason,
        "source": [str(migration.source_gpu)],
        "target": [str(migration.target_gpu)],
        "num_rounds": max(0, migration.round_acked),
        "num_tokens": migration.num_sent,
        "num_bytes": migration.num_bytes,
        "predicted": _predicted_json(migration.predicted_s, migration.predicted_pause_s),
        "pause_ms": migration.pause_ms,
        "error": migration.error or None,
    }


def _predicted_json(seconds: float | None, pause_s: float | None) -> AdminJson | None:
    """What was expected when it began; null where that was not known."""
    if seconds is None or pause_s is None:
        return None
    return {"ms": round(seconds * 1000), "pause_ms": round(pause_s * 1000)}
