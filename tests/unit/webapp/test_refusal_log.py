"""How often refusals are logged."""

from __future__ import annotations

import time

import pytest

from webapp.refusal_log import RefusalLog


def test_the_first_of_each_kind_is_told_and_what_follows_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    refusals = RefusalLog(every_s=0.2)
    for number in range(4):
        refusals.note("unavailable", f"number {number}")
    refusals.note("model_not_ready", "another")
    refusals.tell_due()
    assert caplog.messages == ["number 0", "another"]
    time.sleep(0.3)
    refusals.tell_due()
    refusals.tell_due()
    assert caplog.messages[2:] == ["3 more requests were refused, the last: number 3"]


def test_what_was_counted_is_told_with_the_next_of_its_kind(caplog: pytest.LogCaptureFixture) -> None:
    refusals = RefusalLog(every_s=0.2)
    refusals.note("unavailable", "one")
    refusals.note("unavailable", "two")
    time.sleep(0.3)
    refusals.note("unavailable", "three")
    assert caplog.messages == ["one", "three (1 more like it before)"]
