"""What the ledger says that estimators learn from: measured loads, jobs that came, moved and ended."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import takewhile

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from sllm_tasks.cluster import Tier
from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.estimators.facts import ArrivalFact, Fact, JobFact, LoadFact, MigrationFact, StartFact
from sllm_tasks.ids import first_id
from sllm_tasks.ledger.columns import JsonObject
from sllm_tasks.ledger.encoding import to_ms
from sllm_tasks.ledger.loads import MeasuredLoad, recent_loads
from sllm_tasks.ledger.tables import DecisionRow, JobRow, MigrationRoundRow, MigrationRow, ModelRow
from sllm_tasks.migration.states import MigrationState

#: Of jobs that end now, those are read that were submitted up to so long before: there is no index by end, and those
#: that ran for longer are few.
_LONGEST_RUN = timedelta(minutes=10)
#: Jobs that ended so much earlier are looked at as well: their prompts may have been read before the others'. Short,
#: since each look reads all of them.
_BESIDE = timedelta(seconds=5)
#: Ids of jobs are made with the clocks of web hosts, which may be so much behind the cluster's, by which jobs are
#: submitted: there is no index by that.
_SKEW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedFact:
    """A fact with the row it is from and when it came true."""

    row_id: str
    at: datetime
    fact: Fact


def load_facts(session: Session, *, since: datetime, limit: int) -> list[TimedFact]:
    """The latest loads that ended since then, oldest first."""
    models = session.execute(select(ModelRow.checkpoint, ModelRow.num_gpus)).all()
    num_gpus = {row.checkpoint: row.num_gpus for row in models}
    # Those that ended a little earlier may have been in the way of the others.
    loads = recent_loads(session, since=since - _LONGEST_RUN, limit=limit)
    return [
        _load_fact(load, num_gpus.get(load.checkpoint, 1), _bytes_before(load, reversed(loads[:index])))
        for index, load in enumerate(loads)
        if load.at >= since
    ]


def job_facts(session: Session, *, since: datetime, limit: int) -> list[TimedFact]:
    """The jobs that ended since then, oldest first; at most `limit`, those that were submitted last."""
    query = select(
        JobRow.id,
        JobRow.model,
        JobRow.attempt,
        JobRow.prompt_tokens,
        JobRow.completion_tokens,
        JobRow.timings_ms,
        JobRow.assignment,
        JobRow.ended_at,
    ).where(JobRow.id >= first_id("job", to_ms(since - _LONGEST_RUN)), JobRow.ended_at >= since - _BESIDE)
    rows = session.execute(query.order_by(JobRow.id.desc()).limit(limit)).all()
    first_tokens: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        if isinstance(first_ms := (row.timings_ms or {}).get("first_token_ms"), int):
            insort(first_tokens[_place(row.model, row.assignment)], first_ms)
    found = []
    for row in rows:
        if row.ended_at is None or row.ended_at < since:
            continue
        times = _read_alone(row.timings_ms or {}, first_tokens[_place(row.model, row.assignment)])
        fact = _job_fact(row.model, row.prompt_tokens, row.completion_tokens or 0, times)
        if row.attempt > 1:
            # Between its tokens lies the time in which nobody had it.
            fact = replace(fact, token_s=None)
        node = str((row.assignment or {}).get("node") or "")
        found.append(TimedFact(row_id=row.id, at=row.ended_at, fact=replace(fact, node=node)))
    return sorted(found, key=lambda timed: (timed.at, timed.row_id))


def migration_facts(session: Session, *, since: datetime, limit: int) -> list[TimedFact]:
    """The moves that ended since then with their job on its target, oldest first; at most `limit`, the latest."""
    begin = func.min(MigrationRoundRow.at)
    query = (
        select(
            MigrationRow.id,
            JobRow.model,
            MigrationRow.batch,
            MigrationRow.ended_at,
            func.sum(MigrationRoundRow.num_tokens).label("num_tokens"),
            begin.label("first_at"),
            # Of the round that ended first: the target was loaded when that began.
            func.sum(case((MigrationRoundRow.round == 1, MigrationRoundRow.seconds), else_=0.0)).label("first_s"),
        )
        .join(JobRow, JobRow.id == MigrationRow.job_id)
        .join(MigrationRoundRow, MigrationRoundRow.migration_id == MigrationRow.id)
        .where(MigrationRow.state == MigrationState.SUCCEEDED, MigrationRow.ended_at >= since)
        .group_by(MigrationRow.id, JobRow.model, MigrationRow.batch, MigrationRow.ended_at)
    )
    found = []
    for row in session.execute(query.order_by(MigrationRow.id.desc()).limit(limit)):
        seconds = (row.ended_at - row.first_at).total_seconds() + row.first_s
        fact = MigrationFact(model=row.model, batch=row.batch or 1, num_tokens=row.num_tokens, seconds=seconds)
        found.append(TimedFact(row_id=row.id, at=row.ended_at, fact=fact))
    return sorted(found, key=lambda timed: (timed.at, timed.row_id))


def start_facts(session: Session, *, since: datetime, limit: int) -> list[TimedFact]:
    """The decisions whose jobs ended since then, oldest first; at most `limit`, the latest decisions."""
    query = (
        select(DecisionRow.id, DecisionRow.path, DecisionRow.choice, DecisionRow.actual_s, JobRow.ended_at)
        .join(JobRow, JobRow.id == DecisionRow.job_id)
        .where(DecisionRow.at >= since - _LONGEST_RUN, DecisionRow.actual_s.is_not(None), JobRow.ended_at >= since)
    )
    found = []
    for row in session.execute(query.order_by(DecisionRow.id.desc()).limit(limit)):
        total = row.choice.get("total")
        if isinstance(total, Mapping):
            fact = StartFact(path=row.path, total=Estimate(**total), actual_s=row.actual_s)
            found.append(TimedFact(row_id=row.id, at=row.ended_at, fact=fact))
    return sorted(found, key=lambda timed: (timed.at, timed.row_id))


def arrival_facts(session: Session, *, since: datetime, limit: int, of_each: int) -> list[TimedFact]:
    """The jobs that were submitted since then, oldest first; of the latest `limit` at most `of_each` of each model."""
    latest = (
        select(JobRow.id, JobRow.model, JobRow.created_at)
        .where(JobRow.id >= first_id("job", to_ms(since - _SKEW)), JobRow.created_at >= since)
        .order_by(JobRow.id.desc())
        .limit(limit)
        .subquery()
    )
    number = func.row_number().over(partition_by=latest.c.model, order_by=latest.c.id.desc())
    numbered = select(latest, number.label("number")).subquery()
    found = []
    for row in session.execute(select(numbered).where(numbered.c.number <= of_each)):
        fact = ArrivalFact(model=row.model, at_s=to_ms(row.created_at) / 1000)
        found.append(TimedFact(row_id=row.id, at=row.created_at, fact=fact))
    return sorted(found, key=lambda timed: (timed.at, timed.row_id))


def num_jobs_by_model(session: Session, *, since: datetime) -> Mapping[str, int]:
    """How many jobs of each model were submitted since then."""
    query = select(JobRow.model, func.count().label("num_jobs")).where(JobRow.id >= first_id("job", to_ms(since)))
    return {row.model: row.num_jobs for row in session.execute(query.group_by(JobRow.model))}


def _load_fact(load: MeasuredLoad, num_gpus: int, queued_bytes: int) -> TimedFact:
    # Out of DRAM each gpu has a way of its own.
    apart = num_gpus if load.tier is Tier.DRAM and load.gpu is not None else 1
    fact = LoadFact(
        node=load.node,
        tier=load.tier,
        num_bytes=load.num_bytes // apart,
        seconds=load.seconds,
        queued_bytes=queued_bytes,
        to_gpu=load.gpu is not None,
    )
    return TimedFact(row_id=load.id, at=load.at, fact=fact)


def _bytes_before(load: MeasuredLoad, earlier: Iterable[MeasuredLoad]) -> int:
    """What other loads read from the same disk or link while this one waited: those that ended before it, latest first.

    Whoever has less left reads first, so one that ended later had let this one pass. Two loads of one checkpoint
    share what they read.
    """
    if load.tier is Tier.DRAM:
        return 0
    begin, num_bytes = load.at - timedelta(seconds=load.seconds), 0.0
    for other in takewhile(lambda other: other.at > begin, earlier):
        same = (other.node, other.tier) == (load.node, load.tier) and other.checkpoint != load.checkpoint
        if same and other.seconds > 0:
            waited_s = min(other.seconds, (other.at - begin).total_seconds())
            num_bytes += other.num_bytes * waited_s / other.seconds
    return int(num_bytes)


def _place(model: str, assignment: JsonObject | None) -> str:
    """Where a job ran: jobs of one model on one gpu had the same replica."""
    return f"{model} {(assignment or {}).get('node')} {(assignment or {}).get('gpus')}"


def _read_alone(times: JsonObject, first_tokens: Sequence[int]) -> JsonObject:
    """Begin a job's prefill with the last first token before its own on its replica: prompts are read one by one.

    `first_tokens` are in order.
    """
    begin_ms, end_ms = times.get("prefill_ms"), times.get("first_token_ms")
    if not (isinstance(begin_ms, int) and isinstance(end_ms, int)):
        return times
    before = first_tokens[: bisect_left(first_tokens, end_ms)]
    return {**times, "prefill_ms": max([begin_ms, *before[-1:]])}


def _job_fact(model: str, prompt_tokens: int, completion_tokens: int, times: JsonObject) -> JobFact:
    def between(begin: str, end: str) -> float | None:
        first, last = times.get(begin), times.get(end)
        return (last - first) / 1000 if isinstance(first, int) and isinstance(last, int) and last >= first else None

    decoding_s, batch = between("first_token_ms", "ended_ms"), times.get("batch")
    return JobFact(
        model=model,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        first_token_s=between("prefill_ms", "first_token_ms"),
        token_s=decoding_s / (completion_tokens - 1) if decoding_s is not None and completion_tokens > 1 else None,
        batch=batch if isinstance(batch, int) else 1,
    )
