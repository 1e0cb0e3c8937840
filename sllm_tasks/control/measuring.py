"""What the reports that control has committed add to the metrics of the cluster; pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from typing import Any, Final

from sllm_tasks.endings import samples_of_end
from sllm_tasks.livestate.codec import decode_outcome
from sllm_tasks.livestate.reports import Report
from sllm_tasks.metrics import (
    LOADED_BYTES,
    LOADS,
    MIGRATION_PAUSES,
    MIGRATION_ROUNDS,
    MIGRATIONS,
    PHASES,
    Sample,
)
from sllm_tasks.migration.states import MigrationState

#: The moments between which each phase lies; one that a job never came to is left out.
_PHASES: Final[Mapping[str, tuple[str, str]]] = {
    "queued": ("created_ms", "assigned_ms"),
    "placing": ("assigned_ms", "started_ms"),
    "loading": ("started_ms", "prefill_ms"),
    "prefill": ("prefill_ms", "first_token_ms"),
    "first_token": ("created_ms", "first_token_ms"),
    "decoding": ("first_token_ms", "ended_ms"),
}


def samples_of(reports: Iterable[Report], ended: Collection[str]) -> list[Sample]:
    """Samples of a batch; of jobs only those that it has `ended`, which a batch that is repeated has not."""
    left = set(ended)
    samples: list[Sample] = []
    for report in reports:
        match report.kind:
            case "job_ended" if report.data["job_id"] in left:
                left.remove(report.data["job_id"])
                samples += chain(samples_of_end(decode_outcome(report.data["outcome"])), _phases(report.data))
            case "load_measured":
                tier = (report.data["tier"],)
                samples += (
                    Sample(LOADS, tier, report.data["seconds"]),
                    Sample(LOADED_BYTES, tier, report.data["num_bytes"]),
                )
            case "migration":
                samples += _migration(report.data)
            case "migration_round":
                samples.append(Sample(MIGRATION_ROUNDS))
    return samples


def _phases(data: Mapping[str, Any]) -> Iterable[Sample]:
    # Of several attempts, the one that brought the first token.
    times = {**data, **(data.get("start") or {})}
    for phase, (begin, end) in _PHASES.items():
        if times.get(begin) is not None and times.get(end) is not None:
            yield Sample(PHASES, (phase, times["start_kind"]), max(0, times[end] - times[begin]) / 1000)


def _migration(data: Mapping[str, Any]) -> Iterable[Sample]:
    state = MigrationState(data["state"])
    if state.is_terminal:
        yield Sample(MIGRATIONS, (state, data["reason"]))
        if data.get("pause_ms") is not None:
            yield Sample(MIGRATION_PAUSES, (), data["pause_ms"] / 1000)
