"""What the reader of one choice has been given, and what is new to it, also when its job starts again; pure.

A chunk that was sent cannot be taken back. A job that begins anew says the same again, because draws depend on nothing
but seed and position; so what was shown already is passed over, and compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from sllm_tasks.jobs import TokenRecord
from webapp.job_follower import ShownEvent


class TranscriptBrokenError(Exception):
    """The job went on otherwise than it had begun: what its reader was given cannot be continued."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one event adds."""

    text: str
    token: TokenRecord | None = None


class Transcript:
    """The text of one choice as far as it was given out."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        #: Shown before, and yet to come once more.
        self._repeated = ""
        self._num_tokens = 0

    def take(self, event: ShownEvent) -> Piece | None:
        """What an event adds, None for nothing; raises TranscriptBrokenError."""
        if event.kind == "token":
            return self._token(event)
        if event.kind == "snapshot":
            return self._snapshot(event.data["text"])
        return None

    def _token(self, event: ShownEvent) -> Piece | None:
        text, index = event.data["text"], event.data["index"]
        common = min(len(text), len(self._repeated))
        if text[:common] != self._repeated[:common]:
            raise TranscriptBrokenError
        self._repeated = self._repeated[common:]
        if index < self._num_tokens:
            return self._piece(text[common:], None)
        self._num_tokens = index + 1
        return self._piece(text[common:], _record(event))

    def _snapshot(self, text: str) -> Piece | None:
        shown = "".join(self._shown)
        if shown.startswith(text):
            self._repeated = shown[len(text) :]
            return None
        if not text.startswith(shown):
            raise TranscriptBrokenError
        self._repeated = ""
        return self._piece(text[len(shown) :], None)

    def _piece(self, text: str, token: TokenRecord | None) -> Piece | None:
        if text:
            self._shown.append(text)
        return Piece(text=text, token=token) if text or token is not None else None


def _record(event: ShownEvent) -> TokenRecord:
    data = event.data
    return TokenRecord(
        index=data["index"],
        token_id=data["id"],
        text=data["text"],
        logprob=data.get("logprob"),
        top=tuple((token_id, logprob) for token_id, logprob in data.get("top", ())),
    )
