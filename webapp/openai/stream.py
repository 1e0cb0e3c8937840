"""One request's answers as a stream of chunks, while its jobs run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from sllm_tasks.errors import ErrorCode, SllmError, UnavailableError, error_code
from sllm_tasks.jobs import JobStatus, TokenRecord
from webapp.errors import JobFailedError
from webapp.job_follower import JobFollower, ShownEvent
from webapp.job_waits import BLOCK_MS, LEDGER_EVERY_S
from webapp.openai.answers import Choice, Envelope, Json
from webapp.openai.errors import OpenAiError, described
from webapp.openai.requested import Requested
from webapp.openai.transcript import Transcript, TranscriptBrokenError

#: A comment after this much silence, so that neither a proxy nor a client takes a cold start for a dead server.
_KEEP_ALIVE_EVERY_S: Final = 2.0
_KEEP_ALIVE: Final = b": keep-alive\n\n"
_DONE: Final = b"data: [DONE]\n\n"


class ChunkStream:
    """Chunks until all choices are there, one has failed, or the client or the server leaves.

    An error is told in the stream, which then ends without `[DONE]`. `close` stops the jobs of an unfinished stream.
    """

    def __init__(self, requested: Requested, check_caller: Callable[[], object], has_gone: Callable[[], bool]) -> None:
        self._requested = requested
        self._services = requested.services
        self._check_caller = check_caller
        self._has_gone = has_gone
        envelope = requested.envelope
        self._envelope = envelope
        self._choices = [
            _ChoiceStream(envelope, index, JobFollower(self._services, view), shows_logprobs=self._shows_logprobs)
            for index, view in enumerate(requested.views)
        ]
        self._is_complete = False

    @property
    def _shows_logprobs(self) -> bool:
        return self._requested.wanted.jobs[0].params.logprobs is not None

    def __iter__(self) -> Iterator[bytes]:
        """Write the stream."""
        yield _KEEP_ALIVE
        try:
            for choice in self._choices:
                yield from _written(choice.show(choice.follower.opening()))
            yield from self._follow()
        except TranscriptBrokenError:
            yield _error(_broken("the job was started anew and went on otherwise than before"))
            return
        except SllmError as error:
            yield _error(described(error) or _broken("the server has failed"))
            return
        if any(choice.ended is None for choice in self._choices):
            yield _error(_broken("the server stops"))
            return
        self._is_complete = True
        if self._requested.wanted.streams_usage:
            yield from _written([self._envelope.usage_chunk([c.ended for c in self._choices if c.ended is not None])])
        yield _DONE

    def close(self) -> None:
        """Stop the jobs unless all of the stream was made; idempotent."""
        if not self._is_complete:
            self._requested.stop()

    def _follow(self) -> Iterator[bytes]:
        wrote_s = asked_s = time.monotonic()
        while open_choices := [choice for choice in self._choices if choice.ended is None]:
            if self._services.stopping.is_set() or self._has_gone():
                return
            chunks = list(self._next_chunks(open_choices))
            yield from _written(chunks)
            now_s = time.monotonic()
            if chunks:
                wrote_s = now_s
            elif now_s - wrote_s >= _KEEP_ALIVE_EVERY_S:
                yield _KEEP_ALIVE
                wrote_s = now_s
            if now_s - asked_s >= LEDGER_EVERY_S:
                asked_s = now_s
                yield from _written(self._endings_from_ledger([] if chunks else open_choices))

    def _next_chunks(self, choices: list[_ChoiceStream]) -> Iterator[Json]:
        positions = {choice.follower.job_id: choice.follower.position for choice in choices}
        try:
            events = self._services.live.jobs.events_of(positions, block_ms=BLOCK_MS)
        except UnavailableError:
            time.sleep(BLOCK_MS / 1000)
            return
        for choice in choices:
            yield from choice.show(choice.follower.take(events[choice.follower.job_id]))

    def _endings_from_ledger(self, choices: list[_ChoiceStream]) -> Iterator[Json]:
        """Ask the ledger, which alone knows of an end that could not be announced, and whether the key still counts."""
        try:
            self._check_caller()
            for choice in choices:
                yield from choice.show(choice.follower.ending_from_ledger())
        except UnavailableError:
            return


class _ChoiceStream:
    """One choice on its way."""

    def __init__(self, envelope: Envelope, index: int, follower: JobFollower, *, shows_logprobs: bool) -> None:
        self._envelope = envelope
        self._index = index
        self._transcript = Transcript()
        self._shows_logprobs = shows_logprobs
        self._has_begun = False
        self.follower = follower
        self.ended: Choice | None = None

    def show(self, events: Iterable[ShownEvent]) -> Iterator[Json]:
        """Make chunks of events; raises JobFailedError or TranscriptBrokenError."""
        texts: list[str] = []
        tokens: list[TokenRecord] = []
        completed = None
        for event in events:
            piece = self._transcript.take(event)
            if piece is not None:
                texts.append(piece.text)
                tokens += [piece.token] if piece.token is not None else []
            if event.kind == "completed":
                completed = event
        text, shown = "".join(texts), tokens if self._shows_logprobs else None
        if text or shown:
            yield self._chunk(text, tokens=shown)
        if completed is not None:
            self.ended = _ended(completed)
            yield self._chunk("", finish_reason=self.ended.finish_reason)

    def _chunk(self, text: str, *, tokens: list[TokenRecord] | None = None, finish_reason: str | None = None) -> Json:
        is_first, self._has_begun = not self._has_begun, True
        return self._envelope.chunk(self._index, text, is_first=is_first, finish_reason=finish_reason, tokens=tokens)


def _ended(event: ShownEvent) -> Choice:
    data = event.data
    if data["status"] != JobStatus.SUCCEEDED:
        error = data["error"] or {"code": ErrorCode.CANCELED_BY_USER, "message": f"the job is {data['status']}"}
        raise JobFailedError(error_code(error["code"]), error["message"])
    return Choice(
        text="",
        finish_reason=data["finish_reason"],
        tokens=None,
        prompt_tokens=data["usage"]["prompt_tokens"],
        completion_tokens=data["usage"]["completion_tokens"],
    )


def _broken(message: str) -> OpenAiError:
    return OpenAiError(status=500, message=message, type="server_error", code="stream_broken")


def _written(chunks: Iterable[Json]) -> Iterator[bytes]:
    return (_data(chunk) for chunk in chunks)


def _error(error: OpenAiError) -> bytes:
    return _data(error.body)


def _data(value: object) -> bytes:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()
