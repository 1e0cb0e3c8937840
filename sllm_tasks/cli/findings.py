"""What `sllm doctor` finds: one thing that was looked at, how that is to be taken, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """How a finding is to be taken."""

    OK = "ok"
    #: Works, with less safety or speed.
    WARNING = "warning"
    #: Does not work.
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    health: Health
    detail: str
    #: What to do, empty when all is well.
    remedy: str = ""


def judged(what: str, detail: str, *, is_well: bool, otherwise: Health, remedy: str) -> Finding:
    """Make a finding of something that is well, or is not and has a remedy."""
    return Finding(what, Health.OK, detail) if is_well else Finding(what, otherwise, detail, remedy)
