"""What is counted, how it is stored, and what reports add to it."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sllm_tasks.control.measuring import samples_of
from sllm_tasks.livestate.reports import Report
from sllm_tasks.metrics import (
    JOBS,
    LOADED_BYTES,
    LOADS,
    MIGRATION_PAUSES,
    MIGRATIONS,
    PHASES,
    TOKENS,
    Sample,
    counts_of,
    histograms_of,
)

_OUTCOME = {
    "status": "succeeded", "text": "", "finish_reason": "stop", "error": None, "logprobs": [],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}  # fmt: skip
_END: dict[str, Any] = {
    "job_id": "job_1", "start_kind": "warm", "created_ms": 1_000, "assigned_ms": 1_010, "started_ms": 1_020,
    "prefill_ms": None, "first_token_ms": 1_500, "ended_ms": 3_500, "outcome": json.dumps(_OUTCOME),
}  # fmt: skip


def stored(samples: list[Sample]) -> dict[str, float]:
    fields: dict[str, float] = defaultdict(float)
    for sample in samples:
        for field, amount in sample.increments():
            fields[field] += amount
    return fields


def report(kind: str, data: dict[str, Any]) -> Report:
    return Report(id="1-0", kind=kind, data=data)


@given(st.lists(st.floats(0, 1e4), max_size=20))
@settings(max_examples=50)
def test_a_histogram_holds_every_value_in_the_first_bucket_that_is_large_enough(values: list[float]) -> None:
    found = histograms_of(LOADS, stored([Sample(LOADS, ("ssd",), value) for value in values]))
    assert set(found) == ({("ssd",)} if values else set())
    for histogram in found.values():
        bounds = (*LOADS.buckets, float("inf"))
        assert list(histogram.cumulative) == [sum(value <= bound for value in values) for bound in bounds]
        assert abs(histogram.sum - sum(values)) < 1e-6


def test_metrics_whose_names_begin_alike_are_kept_apart() -> None:
    fields = stored([Sample(LOADS, ("ssd",), 1.0), Sample(LOADED_BYTES, ("ssd",), 7)])
    assert counts_of(LOADED_BYTES, fields) == {("ssd",): 7}


def test_a_job_is_counted_once_and_only_if_this_batch_has_ended_it() -> None:
    batch = [report("job_ended", _END), report("job_ended", _END), report("job_ended", {**_END, "job_id": "job_2"})]
    fields = stored(samples_of(batch, {"job_1"}))
    assert counts_of(JOBS, fields) == {("succeeded", ""): 1}
    assert counts_of(TOKENS, fields) == {("prompt",): 3, ("completion",): 2}


def test_phases_of_which_an_end_is_not_known_are_left_out() -> None:
    phases = histograms_of(PHASES, stored(samples_of([report("job_ended", _END)], {"job_1"})))
    sums = {phase: histogram.sum for (phase, _), histogram in phases.items()}
    assert sums == {"queued": 0.01, "placing": 0.01, "first_token": 0.5, "decoding": 2.0}


def test_phases_of_a_job_that_another_attempt_ended_are_those_of_its_first_token() -> None:
    start = {"start_kind": "cold_ssd", "assigned_ms": 1_005, "started_ms": 1_006, "first_token_ms": 1_100}
    phases = histograms_of(PHASES, stored(samples_of([report("job_ended", {**_END, "start": start})], {"job_1"})))
    assert phases["first_token", "cold_ssd"].sum == pytest.approx(0.1)
    assert phases["queued", "cold_ssd"].sum == pytest.approx(0.005)


def test_a_migration_is_counted_when_it_is_over() -> None:
    going = {"state": "catching_up", "reason": "drain"}
    over = {"state": "succeeded", "reason": "drain", "pause_ms": 40}
    fields = stored(samples_of([report("migration", going), report("migration", over)], ()))
    assert counts_of(MIGRATIONS, fields) == {("succeeded", "drain"): 1}
    assert histograms_of(MIGRATION_PAUSES, fields)[()].sum == 0.04
