"""Commits what workers and the router report, in batches, and tells readers that their jobs have ended."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from sllm_tasks.cluster import GpuId, Tier
from sllm_tasks.control.measuring import samples_of
from sllm_tasks.control.results import ask_to_verify
from sllm_tasks.endings import completed_event, recorded_outcome
from sllm_tasks.errors import ErrorCode, UnavailableError
from sllm_tasks.jobs import Exactness, StartKind
from sllm_tasks.ledger.attempts import NewAttempt, end_attempt, start_attempt
from sllm_tasks.ledger.database import Database, IllegalRowError
from sllm_tasks.ledger.decisions import Decision, add_decisions, note_actual_starts
from sllm_tasks.ledger.encoding import from_ms
from sllm_tasks.ledger.jobs import Ending, bump_attempt, end_jobs, get_job, note_started
from sllm_tasks.ledger.loads import MeasuredLoad, add_loads
from sllm_tasks.ledger.migrations import MigrationReport, RoundReport, add_round, note_migration
from sllm_tasks.ledger.states import AttemptExit
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.codec import decode_outcome
from sllm_tasks.livestate.jobs import JobStart, job_start
from sllm_tasks.livestate.reports import Report
from sllm_tasks.migration.states import MigrationState
from sllm_tasks.timeline import mark

logger = logging.getLogger(__name__)

_BATCH = 200
_BLOCK_MS = 1_000
_RETRY_S = 0.5


class LedgerWriter:
    """One thread empties the reports: read, commit, tell, remove. A crash repeats some of it, which is harmless."""

    def __init__(self, ledger: Database, live: LiveState, on_operation: Callable[[Mapping[str, Any]], None]) -> None:
        self._ledger = ledger
        self._live = live
        self._on_operation = on_operation

    def run(self, stopping: threading.Event) -> None:
        """Write until told to stop."""
        while not stopping.is_set():
            try:
                reports = self._live.reports.read(_BATCH, _BLOCK_MS)
                if reports:
                    self.write(reports)
            except UnavailableError as error:
                logger.warning("reports wait: %s", error)
                stopping.wait(_RETRY_S)

    def write(self, reports: list[Report]) -> None:
        """Commit a batch and tell of it; raises UnavailableError with nothing lost."""
        try:
            self._commit(reports)
        except IllegalRowError:
            # One report contradicts the ledger; it must not hold up the others.
            for report in reports:
                self._commit_alone(report)
        for report in reports:
            if report.kind == "operation":
                self._on_operation(report.data)
        self._live.reports.remove(reports)

    def _commit_alone(self, report: Report) -> None:
        try:
            self._commit([report])
        except IllegalRowError as error:
            logger.warning("a report (%s) was dropped: %s", report.kind, error)
            self._live.count("reports_dropped")

    def _commit(self, reports: list[Report]) -> None:
        endings: dict[str, Ending] = {}
        for report in reports:
            if report.kind == "job_ended":
                endings.setdefault(report.data["job_id"], _ending(report.data))
        with self._ledger.transaction() as session:
            for report in reports:
                if report.kind == "attempt_started":
                    _attempt_started(session, report.data, job_goes_on=report.data["job_id"] not in endings)
                elif report.kind in _WRITERS:
                    _WRITERS[report.kind](session, report.data)
            ended = end_jobs(session, endings.values())
            # Ended before, by somebody else or by a writer that died before it told: the ledger says how.
            rows = {job_id: get_job(session, job_id) for job_id in endings.keys() - ended}
            for report in reports:
                if report.kind == "job_ended":
                    _close_attempt(session, report.data)
                    _suspect_copy(session, endings[report.data["job_id"]], _gpus(report.data)[0])
        for job_id in ended:
            mark("job.ended", job_id)
            self._live.jobs.end(job_id, endings[job_id].outcome.status, completed_event(endings[job_id].outcome))
        for job_id, row in rows.items():
            if row is not None:
                self._live.jobs.end(job_id, row.status, completed_event(recorded_outcome(row)))
        self._live.metrics.add(samples_of(reports, ended))


def _attempt_started(session: Session, data: dict[str, Any], *, job_goes_on: bool) -> None:
    gpus, at = _gpus(data), from_ms(data["at_ms"])
    start_attempt(
        session,
        NewAttempt(
            job_id=data["job_id"],
            attempt=data["attempt"],
            node=gpus[0].node,
            gpus=tuple(gpu.index for gpu in gpus),
            worker_id=data["worker"],
            replica_id=data["replica"],
            start_kind=StartKind(data["start_kind"]),
            started_at=at,
        ),
    )
    if job_goes_on:
        note_started(session, data["job_id"], attempt=data["attempt"], at=at, assignment=_assignment(data))


def _gpus(data: dict[str, Any], name: str = "gpus") -> tuple[GpuId, ...]:
    """The gpus of a job's replica, its leader first."""
    return tuple(GpuId.parse(gpu) for gpu in data[name].split(","))


def _assignment(data: dict[str, Any]) -> dict[str, Any]:
    gpus = _gpus(data)
    return {"node": gpus[0].node, "gpus": [gpu.index for gpu in gpus], "start_kind": _start(data).start_kind}


def _start(data: dict[str, Any]) -> JobStart:
    """How the job came to its first token; before it has one, what its last attempt did for that."""
    return job_start(data.get("start") or data)


_EXITS = {"worker_lost": AttemptExit.WORKER_LOST, "hand_over": AttemptExit.HANDED_BACK}


def _attempt_ended(session: Session, data: dict[str, Any]) -> None:
    end_attempt(
        session,
        data["job_id"],
        data["attempt"],
        at=from_ms(data["at_ms"]),
        exit_reason=_EXITS.get(data["reason"], AttemptExit.SUPERSEDED),
        num_tokens=data["num_tokens"],
    )
    bump_attempt(session, data["job_id"], data["attempt"], worker_lost=data["worker_lost"])


def _decision(session: Session, data: dict[str, Any]) -> None:
    decision = Decision(
        id=data["id"],
        job_id=data["job_id"],
        attempt=data["attempt"],
        at=from_ms(data["at_ms"]),
        path=data["path"],
        choice=data["choice"],
        candidates=data["candidates"],
        predicted_s=data["predicted_s"],
    )
    add_decisions(session, [decision])


def _load_measured(session: Session, data: dict[str, Any]) -> None:
    gpu = GpuId.parse(data["gpu"])
    load = MeasuredLoad(
        id=data["id"],
        checkpoint=data["checkpoint"],
        node=gpu.node,
        gpu=gpu.index,
        tier=Tier(data["tier"]),
        num_bytes=data["num_bytes"],
        seconds=data["seconds"],
        at=from_ms(data["at_ms"]),
    )
    add_loads(session, [load])


def _migration(session: Session, data: dict[str, Any]) -> None:
    note_migration(
        session,
        MigrationReport(
            id=data["id"],
            job_id=data["job_id"],
            attempt=data["attempt"],
            reason=data["reason"],
            state=MigrationState(data["state"]),
            source_replica_id=data["source_replica"],
            source_gpus=_gpus(data, "source_gpus"),
            target_replica_id=data["target_replica"],
            target_gpus=_gpus(data, "target_gpus"),
            reserved_bytes=data["reserved_bytes"],
            predicted_s=data.get("predicted_s"),
            predicted_pause_s=data.get("predicted_pause_s"),
            batch=data.get("batch"),
            num_bytes=data["num_bytes"],
            pause_ms=data.get("pause_ms"),
            error=data.get("error"),
            created_at=from_ms(data["created_ms"]),
            ended_at=_time(data.get("ended_ms")),
        ),
    )


def _migration_round(session: Session, data: dict[str, Any]) -> None:
    add_round(
        session,
        RoundReport(
            migration_id=data["migration_id"],
            round=data["round"],
            num_tokens=data["num_tokens"],
            seconds=data["seconds"],
            at=from_ms(data["at_ms"]),
        ),
    )


_WRITERS: Mapping[str, Callable[[Session, dict[str, Any]], None]] = {
    "attempt_ended": _attempt_ended,
    "decision": _decision,
    "load_measured": _load_measured,
    "migration": _migration,
    "migration_round": _migration_round,
}


def _ending(data: dict[str, Any]) -> Ending:
    start = _start(data)
    return Ending(
        job_id=data["job_id"],
        outcome=decode_outcome(data["outcome"]),
        at=from_ms(data["ended_ms"]),
        started_at=_time(start.started_ms),
        first_token_at=_time(start.first_token_ms),
        timings_ms=_timings(start, data),
        assignment={**_assignment(data), **_class(data)},
        num_migrations=data.get("num_migrations", 0),
        exactness_achieved=Exactness(data["exactness"]) if data.get("exactness") else None,
    )


def _class(data: dict[str, Any]) -> dict[str, str]:
    """The class in which a job was decoded, if it came so far, and why it is not exact though it was to be."""
    return {name: data[name] for name in ("fingerprint", "downgrade") if data.get(name)}


def _time(ms: int | None) -> datetime | None:
    return from_ms(ms) if ms is not None else None


def _timings(start: JobStart, data: dict[str, Any]) -> dict[str, int | None]:
    """Cluster times at which each part began, which the API turns into durations; and how many decoded together."""
    return {
        "assigned_ms": start.assigned_ms,
        "started_ms": start.started_ms,
        "prefill_ms": start.prefill_ms,
        "first_token_ms": start.first_token_ms,
        "ended_ms": data["ended_ms"],
        "batch": data.get("batch"),
    }


def _close_attempt(session: Session, data: dict[str, Any]) -> None:
    end_attempt(
        session,
        data["job_id"],
        data["attempt"],
        at=from_ms(data["ended_ms"]),
        exit_reason=AttemptExit.JOB_ENDED,
        num_tokens=data["num_tokens"],
    )
    if data.get("decision") and data.get("first_token_ms"):
        note_actual_starts(session, data["job_id"], data["attempt"], from_ms(data["first_token_ms"]))


def _suspect_copy(session: Session, ending: Ending, gpu: GpuId) -> None:
    """Have a copy looked at that a job could not be loaded from: a damaged one is put aside and fetched again."""
    error = ending.outcome.error
    if error is None or error.code is not ErrorCode.CHECKPOINT_CORRUPT:
        return
    job = get_job(session, ending.job_id)
    if job is not None:
        ask_to_verify(session, job.checkpoint, gpu.node, now=ending.at)
