"""Named points at which a test makes a process die, hang, wait or fail; they do nothing without `SLLM_FAILPOINTS`.

Its entries, separated by `;`, are `name=action[@n][~text]`. Actions: `kill9`, `stop` (SIGSTOP), `raise`, `sleep:<ms>`.
With `@n` an entry acts only when the point's count (a token index, say) is n, else at every pass; with `~text` only
when the point's subject contains the text.

An entry `@<directory>` arms points of processes that run already: a line `action[@n][~text]` in a file of the point's
name there acts once, in the first process that comes by, and is taken out of the file before it acts.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from sllm_tasks.errors import ConfigError, SllmError

_ENTRY = re.compile(r"(?P<action>kill9|stop|raise|sleep:(?P<sleep_ms>\d+))(@(?P<count>\d+))?(~(?P<subject>.*))?")


class FailpointError(SllmError):
    """A test asked for this failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failpoint:
    action: str
    sleep_ms: int
    #: None acts at every count.
    count: int | None
    subject: str

    @classmethod
    def parse(cls, text: str) -> _Failpoint:
        found = _ENTRY.fullmatch(text)
        if found is None:
            raise ConfigError(f"SLLM_FAILPOINTS: {text!r} is not kill9|stop|raise|sleep:<ms>[@n][~text]")
        count = found["count"]
        return cls(
            action=found["action"],
            sleep_ms=int(found["sleep_ms"] or 0),
            count=None if count is None else int(count),
            subject=found["subject"] or "",
        )

    def matches(self, count: int, subject: str) -> bool:
        return self.count in {None, count} and self.subject in subject

    def act(self, name: str) -> None:
        if self.action == "kill9":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.action == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif self.action == "raise":
            raise FailpointError(f"failpoint {name}")
        else:
            time.sleep(self.sleep_ms / 1000)


def _parse(text: str) -> tuple[dict[str, _Failpoint], Path | None]:
    points, directory = {}, None
    for entry in filter(None, text.split(";")):
        if entry.startswith("@"):
            directory = Path(entry.removeprefix("@"))
            continue
        name, separator, rest = entry.partition("=")
        if not separator:
            raise ConfigError(f"SLLM_FAILPOINTS: {entry!r} is neither name=action nor @directory")
        points[name] = _Failpoint.parse(rest)
    return points, directory


_POINTS, _DIRECTORY = _parse(os.environ.get("SLLM_FAILPOINTS", ""))


def failpoint(name: str, count: int = 0, subject: str = "") -> None:
    """Do what a test has asked for at this point."""
    point = _POINTS.get(name)
    if point is not None and point.matches(count, subject):
        point.act(name)
    if _DIRECTORY is not None and (armed := _disarm(_DIRECTORY / name, count, subject)) is not None:
        armed.act(name)


def _disarm(path: Path, count: int, subject: str) -> _Failpoint | None:
    """Take the first line that matches out of a file, so that nobody else acts on it."""
    try:
        file = path.open("r+", encoding="utf-8")
    except FileNotFoundError:
        return None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lines = file.read().splitlines()
        for number, line in enumerate(lines):
            point = _Failpoint.parse(line)
            if point.matches(count, subject):
                del lines[number]
                file.seek(0)
                file.truncate()
                file.writelines(f"{rest}\n" for rest in lines)
                return point
    return None
