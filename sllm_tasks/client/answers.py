"""Reading answers and deciding what to do after one that was none; pure, so both clients behave alike."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from sllm_tasks.client.calls import Call
from sllm_tasks.client.errors import ApiError, AuthError, NotFoundApiError, ServerUnavailableError
from sllm_tasks.errors import ErrorCode

_Answer = TypeVar("_Answer")

_AGAIN = frozenset({429, 503})
#: Waiting time doubles from the first to the second, in seconds.
_FIRST_DELAY_S = 0.25
_MAX_DELAY_S = 8.0
#: A server that wants more patience than this is treated as being away.
_MAX_RETRY_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def wants_retry(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in _AGAIN

    @property
    def retry_after_s(self) -> float | None:
        """For how long the server asks to be left alone."""
        try:
            return float(self.headers.get("retry-after", ""))
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came: the server is away, or the connection broke."""

    why: str
    wants_retry: bool = True
    retry_after_s: float | None = None


def read_answer(call: Call[_Answer], answer: Answer) -> _Answer:
    """Decode a success; raises ApiError or ServerUnavailableError for anything else."""
    if answer.status >= 300:
        raise read_error(answer)
    try:
        return call.decode(json.loads(answer.body) if answer.body else {})
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        detail = f"the server answered {call.method} {call.path} with what this client cannot read; is it sllm-tasks?"
        raise ApiError(answer.status, ErrorCode.INTERNAL, detail) from error


def read_error(answer: Answer | Lost) -> ApiError | ServerUnavailableError:
    """The error that a refusal, or no answer at all, stands for."""
    if isinstance(answer, Lost):
        return ServerUnavailableError(answer.why)
    try:
        problem = json.loads(answer.body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    where = answer.headers.get("location") if 300 <= answer.status < 400 else None
    said = f"the server answered {answer.status}" + (f" and leads to {where}" if where else "")
    detail = problem.get("detail") or said
    request_id = problem.get("request_id") or answer.headers.get("x-request-id")
    if answer.status in {502, 503, 504} and problem.get("code", "unavailable") == "unavailable":
        return ServerUnavailableError(detail, request_id=request_id)
    kind = {401: AuthError, 403: AuthError, 404: NotFoundApiError}.get(answer.status, ApiError)
    return kind(answer.status, problem.get("code", "internal"), detail, request_id=request_id)


def delay_s(num_failures: int, retry_after_s: float | None = None) -> float | None:
    """How long to wait after the `num_failures`-th failure, with full jitter; None: the server asks for too much."""
    if retry_after_s is not None and retry_after_s > _MAX_RETRY_AFTER_S:
        return None
    longest_s = min(_MAX_DELAY_S, _FIRST_DELAY_S * 2 ** (num_failures - 1))
    return (retry_after_s or 0.0) + random.uniform(0, longest_s)  # noqa: S311 - spreads load, guards nothing
