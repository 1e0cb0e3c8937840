"""Identifiers: unique, sortable by time, safe in URLs and file names."""

from __future__ import annotations

import re
import time

import pytest

from sllm_tasks.ids import first_id, new_id


def test_an_id_is_a_kind_and_a_ulid() -> None:
    assert re.fullmatch(r"job_[0-7][0-9a-hjkmnp-tv-z]{25}", new_id("job"))


def test_ids_differ() -> None:
    assert len({new_id("job") for _ in range(10_000)}) == 10_000


def test_ids_sort_by_the_millisecond_they_were_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for now_ms in (0, 1, 31, 32, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1):
        monkeypatch.setattr(time, "time_ns", lambda now_ms=now_ms: now_ms * 1_000_000)
        made.append(new_id("job"))
    assert made == sorted(made)


def test_the_first_id_of_a_moment_lies_between_those_made_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000 * 1_000_000)
    made = new_id("job")
    assert first_id("job", 1_700_000_000_000) <= made < first_id("job", 1_700_000_000_001)
    assert first_id("job", -1) == first_id("job", 0)
