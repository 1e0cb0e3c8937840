"""How fast an engine reads for jobs that are decoded elsewhere, so that those it decodes itself keep their rate.

Nobody waits for a job that is read here before it moves here. So a step beside running jobs reads a small piece at
most, and is followed by as much time without: running jobs keep more than half of their rate, and never wait for long.
"""

from __future__ import annotations

from typing import Final

#: Enough for matrices to be used well, and read in a few steps' time.
_PIECE_TOKENS: Final = 64


class ReadingPace:
    """Told about every step; the engine's thread's own."""

    def __init__(self) -> None:
        self._rest_s = 0.0
        self._given = 0
        #: Tokens that may still be read in this step.
        self.left = 0

    def begin_step(self, budget: int, *, others_decode: bool) -> None:
        """Say what may be read: all of a step's budget when nobody decodes here."""
        piece = _PIECE_TOKENS if self._rest_s <= 0 else 0
        self.left = self._given = min(budget, piece) if others_decode else budget

    def end_step(self, seconds: float) -> None:
        """Note how long the step took."""
        has_read = self.left < self._given
        self._rest_s = seconds if has_read else max(0.0, self._rest_s - seconds)
