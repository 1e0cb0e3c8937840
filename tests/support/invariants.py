"""What must hold after any fault: one checker for the fault tests and the soak.

I1 every accepted job reaches exactly one terminal status; I2 its output is the one it has without a fault, over any
number of attempts; I3 what a reader of its events saw has growing ids and adds up to the output; I4 everything that
was taken is given back; I5 at most one owner wrote each token.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from sllm_tasks.client.records import JobRecord
from sllm_tasks.jobs import ACTIVE_STATUSES, JobStatus
from tests.support.cluster import Cluster
from tests.support.load import Event, Load, Question, Watcher
from tests.support.processes import processes_of, wait_until

_END_TIMEOUT_S = 90.0
_BASELINE_TIMEOUT_S = 30.0
#: Celery keeps the messages of a reader that was killed for its visibility time-out, and looks every 10 s.
_UNACKED_LIFE_S = 900 + 60


class InvariantError(AssertionError):
    """An invariant does not hold; the message lists every violation."""


@dataclass(slots=True)
class Findings:
    """What was looked at, and what was wrong."""

    checked: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def note(self, invariant: str, wrong: Iterable[str], num_checked: int) -> None:
        """Add a look at some things."""
        self.checked[invariant] = self.checked.get(invariant, 0) + num_checked
        self.violations += [f"{invariant}: {text}" for text in wrong]

    def require(self) -> None:
        """Raise InvariantError unless all is well."""
        if self.violations:
            raise InvariantError("\n".join(self.violations))

    def __str__(self) -> str:
        looked = ", ".join(f"{name} {count}" for name, count in sorted(self.checked.items()))
        return f"checked {looked}: {len(self.violations)} violations"


def check(
    cluster: Cluster,
    load: Load,
    expected: Mapping[Question, str],
) -> Findings:
    """Wait for the end of a load and look at everything; its poisoned jobs have to fail as poison."""
    findings = Findings()
    left = load.wait_ended(_END_TIMEOUT_S)
    findings.note("I1", (f"{job_id} is {_standing(load, job_id)}" for job_id in left), len(load.jobs))
    if left:
        return findings
    records = load.records()
    _check_ledger(cluster, findings)
    for job_id, (_, question) in load.jobs.items():
        wanted = None if job_id in load.poisoned else expected[question]
        findings.note("I2", _wrong_output(records[job_id], wanted), 1)
    for watcher in load.watchers:
        findings.note("I3", _wrong_stream(watcher, records[watcher.job_id]), 1)
    _check_owners(cluster, load, findings)
    _check_baseline(cluster, findings)
    return findings


def _standing(load: Load, job_id: str) -> str:
    record = load.jobs[job_id][0].record
    return f"{record.status}, {record.phase}, attempt {record.attempt}, {record.num_tokens} tokens"


def _check_ledger(cluster: Cluster, findings: Findings) -> None:
    """Jobs that nobody waits for count as well: the answer to their submission was lost."""
    open_jobs = [job for status in sorted(ACTIVE_STATUSES) for job in cluster.client.jobs(status=status)]
    findings.note("I1", (f"{job.id} is {job.status}" for job in open_jobs), len(open_jobs))


def _wrong_output(record: JobRecord, expected: str | None) -> list[str]:
    if expected is None:
        if record.status is JobStatus.FAILED and record.error_code == "poison":
            return []
        return [f"{record.id} should be poison and is {record.status} ({record.error_code})"]
    if record.status is not JobStatus.SUCCEEDED:
        return [f"{record.id} is {record.status}: {record.error_code} {record.error_message}"]
    if record.text != expected:
        return [f"{record.id} attempt {record.attempt} gave {record.text!r} instead of {expected!r}"]
    return []


def _wrong_stream(watcher: Watcher, record: JobRecord) -> list[str]:
    if not watcher.join(_END_TIMEOUT_S):
        return [f"{record.id}: the reader did not see the end"]
    wrong = []
    events = [event for event in watcher.events if event.id]
    if any(not _follows(before, after) for before, after in pairwise(events)):
        wrong.append(f"{record.id}: event ids do not grow")
    text, num_tokens = "", 0
    for event in watcher.events:
        if event.kind == "snapshot":
            text, num_tokens = event.data["text"], event.data["num_tokens"]
        elif event.kind == "token":
            if event.data["index"] != num_tokens:
                wrong.append(f"{record.id}: token {event.data['index']} came where {num_tokens} was due")
            text, num_tokens = text + event.data["text"], event.data["index"] + 1
    if text != (record.text or ""):
        wrong.append(f"{record.id}: the reader saw {text!r} instead of {record.text!r}")
    endings = [event.data["status"] for event in watcher.events if event.kind == "completed"]
    if endings != [record.status]:
        wrong.append(f"{record.id}: the reader saw the endings {endings} of a job that is {record.status}")
    return wrong


def _follows(before: Event, after: Event) -> bool:
    """Whether an id has grown; what is made from the ledger has none, and clients keep the last one for it."""
    if after.kind in {"snapshot", "completed"} and after.id == before.id:
        return True
    return _order(before.id) < _order(after.id)


def _order(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)


def _check_owners(cluster: Cluster, load: Load, findings: Findings) -> None:
    """Each token index was written once, and an owner that was replaced wrote none after that."""
    for job_id in load.jobs:
        written: list[tuple[int, int]] = []
        entries: Any = cluster.redis.xrange(f"sllm:job:{job_id}:events")
        for _, fields in entries:
            if fields[b"kind"] == b"snapshot":
                written = []
            elif fields[b"kind"] == b"token":
                written.append((int(fields[b"epoch"]), _index(fields[b"data"])))
        epochs = [epoch for epoch, _ in written]
        wrong = []
        if [index for _, index in written] != list(range(len(written))):
            wrong.append(f"{job_id}: indexes {[index for _, index in written]}")
        if epochs != sorted(epochs):
            wrong.append(f"{job_id}: owners wrote in the order {epochs}")
        findings.note("I5", wrong, len(written))


def _index(data: bytes) -> int:
    return int(json.loads(data)["index"])


def _check_baseline(cluster: Cluster, findings: Findings) -> None:
    looks: tuple[tuple[str, Callable[[Cluster], object]], ...] = (
        ("jobs with a lease", _leased),
        ("waiting jobs", _waiting),
        ("jobs counted for tenants", _counted),
        ("reports that the ledger does not have", _reported),
        ("jobs on gpus", _jobs_on_gpus),
        ("reserved memory", _reserved),
        ("replicas in workers", _replicas_in_workers),
        ("messages in queues", _queued),
        ("forgotten messages", _forgotten),
        ("processes of nobody", _orphans),
        ("temporary files", _temporary_files),
    )
    left = [f"{what} remain: {found}" for what, look in looks if (found := _remains(cluster, what, look))]
    findings.note("I4", left, len(looks))


def _remains(cluster: Cluster, what: str, look: Callable[[Cluster], object]) -> object:
    """What is still there after a while, something false if nothing is."""
    try:
        wait_until(lambda: not look(cluster), what, _BASELINE_TIMEOUT_S)
    except AssertionError:
        return look(cluster)
    return None


def _leased(cluster: Cluster) -> object:
    return cluster.redis.zrange("sllm:leases", 0, -1)


def _waiting(cluster: Cluster) -> object:
    return [*cluster.live.jobs.waiting(), *cluster.redis.keys("sllm:waiting:*")]


def _counted(cluster: Cluster) -> dict[str, int]:
    kinds = ("waiting", "running")
    counts = {
        f"{kind} {name!r}": int(n)
        for kind in kinds
        for name, n in cluster.redis.hgetall(f"sllm:tenants:{kind}").items()
    }
    return {what: count for what, count in counts.items() if count}


def _reported(cluster: Cluster) -> object:
    return cluster.redis.xlen("sllm:reports")


def _jobs_on_gpus(cluster: Cluster) -> list[object]:
    return [
        *cluster.redis.keys("sllm:gpu:*:jobs"),
        *(key for key in cluster.redis.keys("sllm:replica:*") if cluster.redis.hget(key, "num_jobs") != b"0"),
    ]


def _reserved(cluster: Cluster) -> dict[str, int]:
    return {name: gpu.reserved_bytes for name, gpu in cluster.gpus().items() if gpu.reserved_bytes}


def _replicas_in_workers(cluster: Cluster) -> dict[str, int]:
    counts = {name: cluster.live.fleet.gpu_stats(gpu.id).get("num_replicas", 0) for name, gpu in cluster.gpus().items()}
    return {name: count for name, count in counts.items() if count}


def _queued(cluster: Cluster) -> dict[str, int]:
    names = [key.decode() for key in cluster.redis.scan_iter(_type="list")]
    return {name: cluster.redis.llen(name) for name in names}


def _forgotten(cluster: Cluster) -> object:
    return cluster.redis.zrangebyscore("unacked_index", "-inf", time.time() - _UNACKED_LIFE_S)


def _temporary_files(cluster: Cluster) -> list[Path]:
    left = ("*.new", ".*.partial", ".doomed-*", ".quarantine-*")
    return [path for pattern in left for path in cluster.home.rglob(pattern)]


def _orphans(cluster: Cluster) -> dict[int, str]:
    """Processes of the state folder that neither the supervisor nor the test has started, nor one of those."""
    found = processes_of(cluster.home)
    known = {*cluster.pids().values(), *cluster.by_hand.pids()}
    return {pid: command for pid, command in found.items() if not _ancestors(pid) & known}


def _ancestors(pid: int) -> set[int]:
    """A process and its ancestors."""
    found = set()
    while pid > 1:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return found
