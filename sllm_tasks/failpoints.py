"""Named points at which a test makes a process die, hang or fail; nothing happens unless `SLLM_FAILPOINTS` is set.

Form: `name=action[@n][~text]`, several separated by `;`. Actions: `kill9`, `stop` (SIGSTOP), `raise`. With `@n` it
acts only when the point's count (a token index, say) is n, else at every pass; with `~text` only when the point's
subject contains the text.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass

from sllm_tasks.errors import ConfigError, SllmError

_ACTIONS = frozenset({"kill9", "stop", "raise"})


class FailpointError(SllmError):
    """A test asked for this failure."""


@dataclass(frozen=True, slots=True)
class _Failpoint:
    action: str
    count: int | None
    subject: str


def _parse(text: str) -> dict[str, _Failpoint]:
    points = {}
    for entry in filter(None, text.split(";")):
        name, separator, rest = entry.partition("=")
        rest, _, subject = rest.partition("~")
        action, _, count = rest.partition("@")
        if not separator or action not in _ACTIONS or not (count.isdigit() or not count):
            raise ConfigError(f"SLLM_FAILPOINTS: {entry!r} is not name=kill9|stop|raise[@n][~text]")
        points[name] = _Failpoint(action, int(count) if count else None, subject)
    return points


_POINTS = _parse(os.environ.get("SLLM_FAILPOINTS", ""))


def failpoint(name: str, count: int = 0, subject: str = "") -> None:
    """Do what a test has asked for at this point."""
    point = _POINTS.get(name)
    if point is None or (point.count is not None and point.count != count) or point.subject not in subject:
        return
    if point.action == "kill9":
        os.kill(os.getpid(), signal.SIGKILL)
    elif point.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise FailpointError(f"failpoint {name}")
