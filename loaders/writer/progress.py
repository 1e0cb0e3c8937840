"""Which chunks of an unfinished checkpoint are written: one line each, so that a stop at any point costs one line."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from loaders.writer.disk import translated, write_file

_HEADER = re.compile(r"plan ([0-9a-f]{64}) (\S{1,64})\n")
_LINE = re.compile(r"(\d{1,5}) (\d{1,9}) ([0-9a-f]{16})\n")


@dataclass(frozen=True, slots=True)
class Progress:
    """What an earlier run has left."""

    created_at: str
    #: Digests by rank and chunk. The bytes may have been lost since (a power cut): compare before trusting them.
    digests: dict[tuple[int, int], int]


class ProgressFile:
    """The record of one run; owns its descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with translated(path):
            self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)

    @staticmethod
    def create(path: Path, plan: str, created_at: str) -> None:
        """Begin the record of a plan."""
        write_file(path, f"plan {plan} {created_at}\n".encode("ascii"))

    @staticmethod
    def read(path: Path, plan: str) -> Progress | None:
        """Read what is there, None if it is of another plan or unreadable."""
        try:
            header, *lines = path.read_text(encoding="ascii").splitlines(keepends=True)
        except (FileNotFoundError, UnicodeDecodeError, ValueError):
            return None
        match = _HEADER.fullmatch(header)
        if match is None or match[1] != plan:
            return None
        # A line that was cut off, and what follows it, is as if it had not been written.
        found = [_LINE.fullmatch(line) for line in lines]
        return Progress(match[2], {(int(line[1]), int(line[2])): int(line[3], 16) for line in found if line})

    def add(self, rank: int, chunk: int, digest: int) -> None:
        """Record a chunk that was written; several threads may do so at once."""
        with translated(self._path):
            os.write(self._fd, f"{rank} {chunk} {digest:016x}\n".encode("ascii"))

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
