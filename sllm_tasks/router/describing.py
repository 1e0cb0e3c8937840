"""Decisions as JSON: what the ledger keeps of them and what `explain` shows."""

from __future__ import annotations

from typing import Any

from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.policy.decision import Assignment, Candidate, Decision


def describe_choice(decision: Decision) -> dict[str, Any]:
    """Say what is done, and when the job's first token is expected if that is known."""
    chosen = decision.chosen
    return {
        **_assignment(decision.choice),
        "start": None if chosen is None else _estimate(chosen.start),
        "total": None if chosen is None else _estimate(chosen.total),
    }


def describe_candidates(decision: Decision) -> list[dict[str, Any]]:
    """List what could have been done, cheapest first."""
    return [_candidate(candidate) for candidate in decision.candidates]


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        **_assignment(candidate.assignment),
        "start": _estimate(candidate.start),
        "total": _estimate(candidate.total),
        "before_s": round(candidate.before_s, 4),
        "others_s": round(candidate.others_s, 4),
        "price_s": round(candidate.price_s, 4),
    }


def _assignment(assignment: Assignment) -> dict[str, Any]:
    return {
        "path": assignment.path,
        "replica_id": assignment.replica_id,
        "gpus": [str(gpu) for gpu in assignment.gpus],
        "victims": list(assignment.victims),
        "moves": [
            {
                "job_id": move.job_id,
                "from_replica": move.from_replica,
                "to_replica": move.to_replica,
                "gpus": [str(gpu) for gpu in move.gpus],
                "victims": list(move.victims),
                "arrives": _estimate(move.arrives),
                "pause_s": round(move.pause_s, 4),
            }
            for move in assignment.moves
        ],
        "reason": assignment.reason,
    }


def _estimate(estimate: Estimate) -> dict[str, float]:
    return {
        "seconds": round(estimate.seconds, 4),
        "low_s": round(estimate.low_s, 4),
        "high_s": round(estimate.high_s, 4),
    }
