"""What a reader was given is never taken back and never said twice, however often its job starts again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.job_follower import ShownEvent
from webapp.openai.transcript import Transcript, TranscriptBrokenError


def _token(index: int, text: str) -> ShownEvent:
    return ShownEvent(kind="token", data={"index": index, "id": index, "text": text})


def _snapshot(text: str) -> ShownEvent:
    return ShownEvent(kind="snapshot", data={"text": text, "num_tokens": 0})


def _given(events: list[ShownEvent]) -> tuple[str, list[int]]:
    transcript = Transcript()
    pieces = [piece for event in events if (piece := transcript.take(event)) is not None]
    return "".join(piece.text for piece in pieces), [piece.token.index for piece in pieces if piece.token is not None]


@given(
    texts=st.lists(st.text("ab", max_size=3), max_size=8),
    starts=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=4),
)
def test_a_job_that_starts_anew_gives_its_reader_each_piece_once(
    texts: list[str], starts: list[tuple[int, int]]
) -> None:
    events: list[ShownEvent] = []
    for reached, kept in starts:
        kept_now = min(kept, len(texts))
        events += [_token(index, text) for index, text in enumerate(texts[:reached])]
        # The live state is lost: the next attempt begins with what somebody still knew.
        events.append(_snapshot("".join(texts[:kept_now])))
        events += [_token(index, text) for index, text in enumerate(texts[kept_now:], kept_now)]
        events.append(_snapshot(""))
    events += [_token(index, text) for index, text in enumerate(texts)]
    text, indexes = _given(events)
    assert text == "".join(texts)
    assert indexes == sorted(set(indexes))


def test_a_snapshot_that_is_ahead_gives_what_is_missing() -> None:
    assert _given([_token(0, "one"), _snapshot("one two")]) == ("one two", [0])


def test_other_events_give_nothing() -> None:
    assert Transcript().take(ShownEvent(kind="status", data={"status": "running"})) is None


@pytest.mark.parametrize("after", [[_snapshot("other")], [_snapshot(""), _token(0, "o!her")]])
def test_a_job_that_goes_on_otherwise_breaks_the_transcript(after: list[ShownEvent]) -> None:
    *before, last = [_token(0, "one"), *after]
    transcript = Transcript()
    for event in before:
        transcript.take(event)
    with pytest.raises(TranscriptBrokenError):
        transcript.take(last)
