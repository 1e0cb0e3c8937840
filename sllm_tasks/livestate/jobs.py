"""Live records of jobs: create, claim, tokens, end. Fencing happens in the scripts, not here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redis import Redis

from sllm_tasks.cluster import GpuId
from sllm_tasks.jobs import EqualityClass, JobPhase, JobSpec, JobStatus, Outcome, StartKind, TokenRecord
from sllm_tasks.livestate import codec
from sllm_tasks.livestate.connection import NEVER_MS, PREFIX, entries, entries_by_stream, number, text, translated
from sllm_tasks.livestate.scripts import Scripts

#: A reserved job whose worker has not claimed it after this time is sent to it again.
CLAIM_MS = 3_000
#: A trigger for the router that was lost delays the next one by at most this.
KICK_LIFE_MS = 1_000
#: How long a silent owner keeps its job; its worker renews this every second.
LEASE_MS = 6_000
#: How long the record of an ended job is kept for readers of its events.
ENDED_LIFE_S = 3_600


class Verdict(StrEnum):
    """What the live state answers to an owner's write."""

    OK = "ok"
    #: Still yours, but it should stop: its user or its deadline wants it.
    CANCEL = "cancel"
    #: No longer yours: stop, write nothing more.
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Gap:
    """Tokens that were written before are missing: a restart of the server lost them."""

    #: Those that are there; write again from here on.
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """What became of a new live record: reserved on a warm gpu, or left to the router (`gpu` is None)."""

    now_ms: int
    replica_id: str | None
    gpu: GpuId | None
    #: Whether the caller has to send the router its trigger.
    kicks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job that is ours until its lease runs out; `attempt` and `epoch` go with every write."""

    spec: JobSpec
    attempt: int
    epoch: int
    replica_id: str
    start_kind: StartKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Tokens of one job from one decode step."""

    job_id: str
    attempt: int
    epoch: int
    tokens: tuple[TokenRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStart:
    """How a job came to its first token, in cluster milliseconds; later attempts leave it as it is."""

    start_kind: StartKind
    assigned_ms: int | None
    started_ms: int | None
    prefill_ms: int | None
    first_token_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveJob:
    """What readers of a job see of its live record; times are cluster milliseconds."""

    status: JobStatus
    phase: JobPhase
    attempt: int
    version: int
    num_tokens: int
    replica_id: str
    gpu: GpuId | None
    owner: str
    start_kind: StartKind | None
    losses: int
    cancel: str
    assigned_ms: int | None
    started_ms: int | None
    loading_ms: int | None
    prefill_ms: int | None
    first_token_ms: int | None
    #: None before its first token. The times above are its last attempt's.
    start: JobStart | None
    #: The migration that is under way, empty without one.
    migration_id: str
    #: Why it has no place yet, empty while that is not known or not so.
    wait_reason: str
    #: How far the load of its replica was last (`LoadState`), None before anything was heard of it.
    load: dict[str, Any] | None
    #: What is promised about its tokens, None before it was on a replica.
    equality: EqualityClass | None
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One event of a job; ids are Redis stream ids and grow with time, over attempts and losses."""

    id: str
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What the sweeper has to do for one job: send it again to `gpu`, or look at its number of lost workers."""

    resend_to: GpuId | None = None
    attempt: int = 0
    requeued: bool = False
    losses: int = 0


_VIEW_FIELDS = (
    "status", "phase", "attempt", "version", "num_tokens", "replica", "gpu", "owner", "start_kind", "losses",
    "cancel", "assigned_ms", "started_ms", "loading_ms", "prefill_ms", "first_token_ms", "wait_reason", "load",
    "exactness", "fingerprint", "downgrade", "migration", "ended", "start",
)  # fmt: skip


def _key(job_id: str) -> str:
    return f"{PREFIX}job:{job_id}"


def _fence(claim: Claim) -> tuple[str, int, int]:
    return claim.spec.job_id, claim.attempt, claim.epoch


class JobStore:
    """The jobs' room of the live state."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    def create(
        self,
        spec: JobSpec,
        *,
        attempt: int = 1,
        losses: int = 0,
        again: bool = False,
        fast_path: bool = True,
        kick: bool = False,
    ) -> Placed:
        """Make the record, reserve a warm place if there is one; a second call finds the first one's answer.

        Without `fast_path` the place is left to the router in any case, as it is while others wait for the model. With
        `kick` a job that is left to it comes with what `RouterStore.kick` answers, in the same exchange.

        `again` tells readers that what they were shown so far is replaced (a `snapshot` event).
        """
        with translated():
            now_ms, replica, gpu, kicks = self._scripts["create_job"](
                args=[
                    spec.job_id, attempt, codec.encode_spec(spec), codec.pack_ids(spec.prompt_ids),
                    spec.created_ms, spec.model, losses, CLAIM_MS, "again" if again else "new",
                    "warm" if fast_path else "",
                    spec.checkpoint, spec.shape.engine, spec.shape.context,
                    spec.tenant, len(spec.prompt_ids), spec.params.max_tokens, KICK_LIFE_MS if kick else 0,
                ]
            )  # fmt: skip
        return Placed(
            now_ms=int(now_ms),
            replica_id=text(replica) or None,
            gpu=GpuId.parse(text(gpu)) if gpu else None,
            kicks=bool(kicks),
        )

    def claim(
        self, job_id: str, attempt: int, gpu: GpuId, worker_id: str, expires_ms: int, call_id: str = ""
    ) -> Claim | str:
        """Take a job for a worker; otherwise the reason why not, which is no error: messages come twice or late.

        A call whose answer was lost is repeated with the same `call_id`, and finds the job taken by itself.
        """
        with translated():
            answer = self._scripts["claim_job"](
                args=[job_id, attempt, str(gpu), worker_id, LEASE_MS, expires_ms, call_id]
            )
        if answer[0] != b"ok":
            return text(answer[0])
        _, epoch, spec, ids, replica, start_kind, _ = answer
        return Claim(
            spec=codec.decode_spec(spec, ids),
            attempt=attempt,
            epoch=int(epoch),
            replica_id=text(replica),
            start_kind=StartKind(text(start_kind)),
        )

    def spec(self, job_id: str) -> JobSpec | None:
        """What a worker needs to run the job, None when there is no live record."""
        with translated():
            values: list[Any] = self._redis.hmget(_key(job_id), "spec", "ids")
        spec, ids = values
        return codec.decode_spec(spec, ids) if spec else None

    def of_gpu(self, gpu: GpuId) -> list[str]:
        """Ids of the jobs with a place on a gpu."""
        with translated():
            return sorted(text(job) for job in self._redis.smembers(f"{PREFIX}gpu:{gpu}:jobs"))

    def set_phase(self, claim: Claim, phase: JobPhase) -> Verdict:
        """Say what the owner is doing."""
        with translated():
            args: list[str | int] = [*_fence(claim), phase.value]
            return Verdict(text(self._scripts["set_phase"](args=args)))

    def append(self, step: Sequence[Append]) -> list[Verdict | Gap]:
        """Write the tokens of one decode step in one round trip; repeating a call does no harm."""
        args: list[str | int] = []
        for append in step:
            tokens = [codec.encode_token(token) for token in append.tokens]
            args += [append.job_id, append.attempt, append.epoch, append.tokens[0].index, len(tokens), *tokens]
        with translated():
            # One call for all of them: a command of its own for each takes twice the CPU, here and in the server.
            answers = self._scripts["append_tokens"](args=args)
        return [Gap(answer) if isinstance(answer, int) else Verdict(text(answer)) for answer in answers]

    def finish(self, claim: Claim, outcome: Outcome) -> Verdict:
        """Report the end of a job that is ours; the ledger decides whether it counts."""
        with translated():
            args: list[str | int] = [*_fence(claim), codec.encode_outcome(outcome)]
            return Verdict(text(self._scripts["finish_job"](args=args)))

    def release(self, claim: Claim, reason: str) -> Verdict:
        """Hand a job back; the next attempt goes on from its tokens."""
        with translated():
            answer = self._scripts["release_job"](args=[*_fence(claim), reason])
        return Verdict.STALE if answer == b"stale" else Verdict.OK

    def end(self, job_id: str, status: JobStatus, completed: dict[str, Any]) -> None:
        """Tell readers that the ledger has committed the end; `completed` is that event's data."""
        with translated():
            self._scripts["end_job"](args=[job_id, status, json.dumps(completed), ENDED_LIFE_S])

    def forget(self, job_id: str) -> None:
        """Drop the record of an ended job before its time, so that the job can be made anew."""
        with translated():
            self._redis.delete(_key(job_id), f"{_key(job_id)}:events")

    def cancel(self, job_id: str, reason: str) -> str:
        """Ask the owner to stop: `asked`, or `unclaimed` / `unknown` when only the ledger can end it."""
        with translated():
            return text(self._scripts["cancel_job"](args=[job_id, reason]))

    def view(self, job_id: str) -> LiveJob | None:
        """The live record, None when there is none."""
        with translated():
            return _live_job(self._redis.hmget(_key(job_id), _VIEW_FIELDS))

    def views(self, job_ids: Sequence[str]) -> list[LiveJob | None]:
        """Live records of many jobs in one round trip, in the order asked for."""
        with translated():
            pipeline = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.hmget(_key(job_id), _VIEW_FIELDS)
            return [_live_job(values) for values in pipeline.execute()]

    def events(self, job_id: str, after: str = "0", *, block_ms: int | None = None) -> list[JobEvent]:
        """Events after an id, at most 1,000; waits up to `block_ms` (None: not at all) for the first."""
        return self.events_of({job_id: after}, block_ms=block_ms)[job_id]

    def events_of(self, after: Mapping[str, str], block_ms: int | None = None) -> dict[str, list[JobEvent]]:
        """The same of several jobs at once, by their ids; waits for the first event of any."""
        keys = {f"{_key(job_id)}:events": job_id for job_id in after}
        found: dict[str, list[JobEvent]] = {job_id: [] for job_id in after}
        with translated():
            answer = self._redis.xread({key: after[job_id] for key, job_id in keys.items()}, count=1000, block=block_ms)
        for key, events in entries_by_stream(answer).items():
            found[keys[key]] = [
                JobEvent(id=entry_id, kind=text(fields[b"kind"]), data=json.loads(fields[b"data"]))
                for entry_id, fields in events
            ]
        return found

    def last_event_id(self, job_id: str) -> str:
        """Id of the newest event, `0` when there is none."""
        with translated():
            newest = entries(self._redis.xrevrange(f"{_key(job_id)}:events", count=1))
        return newest[0][0] if newest else "0"

    def has_event(self, job_id: str, event_id: str) -> bool:
        """Whether the stream holds an event; a server that died may have lost the last ones that it gave out."""
        with translated():
            return bool(self._redis.xrange(f"{_key(job_id)}:events", event_id, event_id, count=1))

    def tokens(self, job_id: str) -> tuple[TokenRecord, ...]:
        """Every token that counts so far, in order."""
        with translated():
            found = entries(self._redis.xrange(f"{_key(job_id)}:events"))
        return tuple(codec.decode_token(fields[b"data"]) for _, fields in found if fields[b"kind"] == b"token")

    def due(self, now_ms: int, limit: int = 500) -> list[str]:
        """Jobs whose claim or lease time has passed."""
        with translated():
            jobs = self._redis.zrangebyscore(f"{PREFIX}leases", "-inf", now_ms, start=0, num=limit)
        return [text(job) for job in jobs]

    def sweep(self, job_id: str, max_resends: int, expires_ms: int = NEVER_MS) -> Due:
        """Look at one due job and put it right; the answer says what remains to be done.

        Nothing, if the server comes to it after `expires_ms`: it was away, and so could nobody renew a lease.
        """
        with translated():
            answer = self._scripts["due_job"](args=[job_id, CLAIM_MS, max_resends, expires_ms])
        if answer[0] == b"resend":
            return Due(resend_to=GpuId.parse(text(answer[1])), attempt=int(answer[2]))
        if answer[0] == b"requeued":
            return Due(requeued=True, losses=int(answer[1]))
        return Due()

    def waiting(self, limit: int = 10_000) -> list[str]:
        """Ids of waiting jobs, those that were accepted first at the beginning."""
        with translated():
            return [text(job) for job in self._redis.zrange(f"{PREFIX}waiting", 0, limit - 1)]

    def num_waiting(self) -> int:
        """How many jobs wait for a place."""
        with translated():
            return int(self._redis.zcard(f"{PREFIX}waiting"))


def job_start(record: Mapping[str, Any]) -> JobStart:
    """Read the start that a live record or a report of it holds, or the same fields of an attempt."""
    return JobStart(
        start_kind=StartKind(record["start_kind"]),
        assigned_ms=record.get("assigned_ms"),
        started_ms=record.get("started_ms"),
        prefill_ms=record.get("prefill_ms"),
        first_token_ms=record.get("first_token_ms"),
    )


def _live_job(values: Sequence[bytes | str | None]) -> LiveJob | None:
    field = dict(zip(_VIEW_FIELDS, values, strict=True))
    if field["status"] is None:
        return None
    return LiveJob(
        status=JobStatus(text(field["status"])),
        phase=JobPhase(text(field["phase"])),
        attempt=number(field["attempt"]) or 0,
        version=number(field["version"]) or 0,
        num_tokens=number(field["num_tokens"]) or 0,
        replica_id=text(field["replica"]),
        gpu=GpuId.parse(text(field["gpu"])) if field["gpu"] else None,
        owner=text(field["owner"]),
        start_kind=StartKind(text(field["start_kind"])) if field["start_kind"] else None,
        losses=number(field["losses"]) or 0,
        cancel=text(field["cancel"]),
        assigned_ms=number(field["assigned_ms"]),
        started_ms=number(field["started_ms"]),
        loading_ms=number(field["loading_ms"]),
        prefill_ms=number(field["prefill_ms"]),
        first_token_ms=number(field["first_token_ms"]),
        start=job_start(json.loads(field["start"])) if field["start"] else None,
        migration_id=text(field["migration"]),
        wait_reason=text(field["wait_reason"]),
        load=json.loads(field["load"]) if field["load"] else None,
        equality=codec.equality_class(text(field["exactness"]), text(field["fingerprint"]), text(field["downgrade"])),
        ended=field["ended"] is not None,
    )
