"""Event ids are ordered as the stream orders them, and nothing else is taken for one."""

from __future__ import annotations

import pytest

from webapp.job_follower import parse_event_id


def test_ids_are_ordered_by_number_and_not_by_text() -> None:
    assert parse_event_id("9-1") < parse_event_id("10-0") < parse_event_id("10-2") < parse_event_id("10-10")
    assert parse_event_id("0") == (0, 0)


@pytest.mark.parametrize("text", ["", "-", "1-", "-1", "1-2-3", "1_0", " 1", "1\n", "\u0661", f"{2**64}", f"1-{2**64}"])
def test_a_text_that_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="event id"):
        parse_event_id(text)
