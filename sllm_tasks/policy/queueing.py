"""Whose turn it is: the order in which waiting jobs are looked at, until nothing more can be started.

Three rules, from the outside in. Batch jobs take what interactive ones leave, and one token in ten of what starts
while both wait. Within a class the tenant with the lowest virtual token counter is next (`policy.shares`), so that
priorities order a tenant's own jobs and nobody else's. Within a tenant a job goes before those that were submitted
later, a step of priority being worth `AGE_STEP_MS`: however many jobs of priority 9 follow, one of priority 0 is
overtaken only by those submitted within the next 90 s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush, heapreplace

from sllm_tasks.cluster import ReplicaShape
from sllm_tasks.policy.shares import Shares
from sllm_tasks.policy.view import WaitingJob

#: One step of priority is worth so much waiting.
AGE_STEP_MS = 10_000
#: A batch job is due when so many times its tokens of interactive work have started before it.
BATCH_PATIENCE = 9

_CLASSES = ("interactive", "batch")

_AgeKey = tuple[int, str]
#: Jobs of one class, tenant and kind, in the order of their ages.
_QueueKey = tuple[str, str, "Kind"]


@dataclass(frozen=True, slots=True)
class Kind:
    """Jobs of one kind can be started on the same replicas: if one has to wait, so have those behind it."""

    model: str
    checkpoint: str | None
    shape: ReplicaShape | None
    suspect: bool

    @classmethod
    def of(cls, job: WaitingJob) -> Kind:
        """The kind of a job."""
        return cls(job.model, job.checkpoint, job.shape, job.suspect)


@dataclass(frozen=True, slots=True)
class Turn:
    """A job that is to be decided for now."""

    job: WaitingJob
    #: Since when the first job of its kind to do so waits: that one may wait for this one's turn.
    oldest_ms: int
    #: Jobs of its kind that are to be started before it.
    num_ahead: int


def num_tokens(job: WaitingJob) -> int:
    """What a job is charged when it starts; it gets back what it did not use."""
    return job.prompt_tokens + job.max_tokens


def oldest_of_kinds(jobs: Iterable[WaitingJob]) -> list[WaitingJob]:
    """One job of each kind and tenant, that waits since any of its kind does."""
    oldest_ms: dict[Kind, int] = {}
    found: dict[tuple[Kind, str], WaitingJob] = {}
    for job in jobs:
        kind = Kind.of(job)
        oldest_ms[kind] = min(job.waits_since_ms, oldest_ms.get(kind, job.waits_since_ms))
        found.setdefault((kind, job.tenant), job)
    return [replace(job, waits_since_ms=oldest_ms[kind]) for (kind, _), job in found.items()]


def age_key(job: WaitingJob) -> _AgeKey:
    """The place of a job among its tenant's, smallest first."""
    return job.created_ms - job.priority * AGE_STEP_MS, job.id


class Turns:
    """The turns of one pass. After each, say what became of it: `started`, `waits` or `gone`.

    When a job has to wait, the next of its kind is the last in line: if even that would rather wait for the others
    than have a replica loaded for itself, so would all between. A pass decides for a kind as often as jobs of it
    start, and twice more, however many wait.
    """

    def __init__(
        self,
        jobs: Iterable[WaitingJob],
        shares: Shares,
        *,
        weights: Mapping[str, float],
        may_start: Mapping[str, int],
    ) -> None:
        """`may_start` limits how many more jobs of a tenant may start; tenants that it does not name have no limit."""
        self._counters = dict(shares.counters)
        self._weights = weights
        self._may_start = dict(may_start)
        self._queues: dict[_QueueKey, deque[WaitingJob]] = {}
        for job in sorted(jobs, key=age_key):
            self._queues.setdefault((job.job_class, job.tenant, Kind.of(job)), deque()).append(job)
        self._keys_of: dict[Kind, list[_QueueKey]] = {}
        self._oldest_ms: dict[Kind, int] = {}
        # Heaps: the kinds of each tenant by their first jobs, and the tenants of each class by their counters.
        self._heads: dict[tuple[str, str], list[tuple[_AgeKey, Kind]]] = {}
        for key, queue in self._queues.items():
            job_class, tenant, kind = key
            self._keys_of.setdefault(kind, []).append(key)
            oldest_ms = min(job.waits_since_ms for job in queue)
            self._oldest_ms[kind] = min(oldest_ms, self._oldest_ms.get(kind, oldest_ms))
            self._heads.setdefault((job_class, tenant), []).append((age_key(queue[0]), kind))
        for heads in self._heads.values():
            heapify(heads)
        self._lines = {job_class: self._line_of(job_class) for job_class in _CLASSES}
        # Batch jobs that could not start anyway save up no more than one of them is due for.
        batch_tokens = [num_tokens(job) for key, queue in self._queues.items() if key[0] == "batch" for job in queue]
        self._most_owed = BATCH_PATIENCE * max(batch_tokens, default=0)
        self._batch_credit = min(shares.batch_credit, self._most_owed)
        # Kinds of which a job has to wait, with that job, and those of them whose last in line is still to be asked.
        self._closed: dict[Kind, str] = {}
        self._unasked: list[Kind] = []

    @property
    def batch_credit(self) -> int:
        """What batch jobs are owed after this pass."""
        return self._batch_credit

    def next(self) -> Turn | None:
        """The next turn, None when nothing more can be started."""
        interactive, batch = (self._head(job_class) for job_class in _CLASSES)
        job = interactive or batch
        if interactive and batch and self._batch_credit >= BATCH_PATIENCE * num_tokens(batch):
            job = batch
        if job is not None:
            return Turn(job, self._oldest_ms[Kind.of(job)], 0)
        while self._unasked:
            turn = self._last_in_line(self._unasked[-1])
            if turn is not None:
                return turn
            self._unasked.pop()
        return None

    def started(self, job: WaitingJob) -> None:
        """A job got its place."""
        self.gone(job)
        tokens, weight = num_tokens(job), self._weights.get(job.tenant, 1.0)
        self._counters[job.tenant] = self._counters.get(job.tenant, 0.0) + tokens / weight
        if job.tenant in self._may_start:
            self._may_start[job.tenant] -= 1
        if job.job_class == "batch":
            self._batch_credit = max(0, self._batch_credit - BATCH_PATIENCE * tokens)
        else:
            self._batch_credit = min(self._batch_credit + tokens, self._most_owed)

    def waits(self, job: WaitingJob) -> None:
        """A job has to wait, and those of its kind with it."""
        kind = Kind.of(job)
        if kind in self._closed:
            self._unasked.remove(kind)
        else:
            self._closed[kind] = job.id
            self._unasked.append(kind)

    def gone(self, job: WaitingJob) -> None:
        """A job does not wait any more."""
        kind = Kind.of(job)
        queue = self._queues[job.job_class, job.tenant, kind]
        if kind in self._closed:
            queue.pop()
            return
        queue.popleft()
        heads = self._heads[job.job_class, job.tenant]
        heappop(heads)
        if queue:
            heappush(heads, (age_key(queue[0]), kind))

    def _line_of(self, job_class: str) -> list[tuple[float, int, str]]:
        """Tenants by counter; of two that are level, the one with fewer jobs first, so that a flood comes last."""
        sizes: dict[str, int] = {}
        for (of_class, tenant, _), queue in self._queues.items():
            if of_class == job_class:
                sizes[tenant] = sizes.get(tenant, 0) + len(queue)
        line = [(self._counters.get(tenant, 0.0), size, tenant) for tenant, size in sizes.items()]
        heapify(line)
        return line

    def _head(self, job_class: str) -> WaitingJob | None:
        line = self._lines[job_class]
        while line:
            counter, size, tenant = line[0]
            now = self._counters.get(tenant, 0.0)
            if counter != now:
                heapreplace(line, (now, size, tenant))
                continue
            job = self._first_of(job_class, tenant) if self._may_start.get(tenant, 1) > 0 else None
            if job is not None:
                return job
            heappop(line)
        return None

    def _first_of(self, job_class: str, tenant: str) -> WaitingJob | None:
        heads = self._heads[job_class, tenant]
        while heads:
            kind = heads[0][1]
            if kind not in self._closed:
                return self._queues[job_class, tenant, kind][0]
            heappop(heads)
        return None

    def _last_in_line(self, kind: Kind) -> Turn | None:
        """The last job of the tenant with the most jobs of a kind, batch jobs behind all others."""
        queues = [
            (key[0] == "batch", len(queue), age_key(queue[-1]), queue[-1])
            for key in self._keys_of[kind]
            if (queue := self._queues[key]) and self._may_start.get(key[1], 1) > 0
        ]
        if not queues:
            return None
        job = max(queues, key=lambda each: each[:3])[3]
        num_ahead = sum(size for _, size, _, _ in queues) - 1
        return None if job.id == self._closed[kind] else Turn(job, self._oldest_ms[kind], num_ahead)
