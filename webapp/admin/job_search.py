"""The search of the list of jobs: `status:failed model:opt node:node1 words`; pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from sllm_tasks.jobs import ACTIVE_STATUSES, JobStatus
from sllm_tasks.ledger.job_lists import JobFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What was searched for, and what of it makes no sense."""

    wanted: JobFilter
    errors: tuple[str, ...] = ()


def parse_search(text: str) -> Search:
    """Read a search; words without a name are looked for in ids and models."""
    statuses: set[JobStatus] = set()
    model = node = None
    words, errors = [], []
    for word in text.split():
        name, colon, value = word.partition(":")
        match (name, bool(colon and value)):
            case ("status", True):
                if value == "active":
                    statuses |= ACTIVE_STATUSES
                elif value in set(JobStatus):
                    statuses.add(JobStatus(value))
                else:
                    errors.append(f"{value} is no status: active, {', '.join(JobStatus)}")
            case ("model", True):
                model = value
            case ("node", True):
                node = value
            case _:
                words.append(word)
    wanted = JobFilter(statuses=frozenset(statuses), model=model, node=node, text=" ".join(words) or None)
    return Search(wanted=wanted, errors=tuple(errors))


def only_in(wanted: JobFilter, statuses: AbstractSet[JobStatus]) -> JobFilter | None:
    """Narrow a search to some statuses; None if it is for others."""
    left = frozenset(wanted.statuses & statuses if wanted.statuses else statuses)
    return replace(wanted, statuses=left) if left else None
