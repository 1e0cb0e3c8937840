"""How much of what a minute gives an API key has left: token buckets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sllm_tasks.livestate.connection import translated
from sllm_tasks.livestate.scripts import Scripts


class RateKind(StrEnum):
    """What is limited by the minute."""

    REQUESTS = "requests"
    #: Of prompts, and those that may be produced.
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateUse:
    """What became of a wish to take something from a bucket."""

    taken: bool
    limit: int
    remaining: int
    #: Until the bucket is full again, in ms.
    full_ms: int
    #: Until what was wanted can be taken, in ms; 0 if it was.
    wait_ms: int


class RateStore:
    """Buckets by key and kind; one that nobody has used for long enough is full, and takes no room."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    def take(self, kind: RateKind, key_id: str, *, limit: int, amount: int) -> RateUse:
        """Take an amount of what each minute gives (`limit`, at least 1), or nothing of it."""
        with translated():
            taken, remaining, full_ms, wait_ms = map(
                int, self._scripts["take_rate"](args=[f"{kind}:{key_id}", limit, amount])
            )
        return RateUse(taken=bool(taken), limit=limit, remaining=remaining, full_ms=full_ms, wait_ms=wait_ms)
