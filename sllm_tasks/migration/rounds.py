"""Whether the target reads once more while the source goes on, or the source stops now: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

#: Reading so few tokens takes no longer than reading one.
_SMALL_GAP: Final = 2
#: Another round has to bring the target nearer by at least this factor, or rounds would never end.
_SHRINKS_TO: Final = 0.8
#: Each round brings the gap down by the ratio of two rates, usually to a few tokens with the first or second.
_MAX_ROUNDS: Final = 8
#: Two messages through the live state and the wait for the target's current step.
_ROUND_TRIP_S: Final = 0.02
#: Readers would take a longer pause for a failure; the job is better off where it is.
_MAX_PAUSE_S: Final = 2.0


class Step(StrEnum):
    """What the source does next."""

    #: Send what the target has not and go on meanwhile.
    ROUND = "round"
    #: Stop between two steps and hand over.
    HAND_OVER = "hand_over"
    #: Stay: the target does not catch up.
    GIVE_UP = "give_up"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """How far the target is."""

    #: Rounds that the target has acknowledged.
    num_rounds: int
    #: Tokens that the source has and the target has not.
    gap: int
    #: Tokens of the last round, which were the gap before it; 0 before the first.
    last_gap: int
    #: Tokens that the source produces per second.
    source_rate: float
    #: Tokens that the target reads per second, in its best round; 0 before the first.
    target_rate: float

    @property
    def pause_s(self) -> float:
        """How long the target would read if the source stopped now."""
        return self.gap / self.target_rate if self.target_rate else 0.0


def next_step(progress: CatchUp) -> Step:
    """Decide after a round, or before the first; the same argument gives the same answer."""
    if progress.num_rounds == 0:
        return Step.ROUND
    if progress.gap <= _SMALL_GAP or progress.pause_s * progress.source_rate <= 1:
        # The reader would wait for the source's next token as long as for the target's.
        return Step.HAND_OVER
    if progress.num_rounds < _MAX_ROUNDS and _has_shrunk(progress) and _will_shrink(progress):
        return Step.ROUND
    return Step.HAND_OVER if progress.pause_s <= _MAX_PAUSE_S else Step.GIVE_UP


def _has_shrunk(progress: CatchUp) -> bool:
    """Beside others the target reads a few tokens hardly sooner than many, whatever its best rate; seen in the gap.

    The first round does not tell: it brings the prompt too, and what was generated may be short.
    """
    return progress.num_rounds == 1 or progress.gap <= _SHRINKS_TO * progress.last_gap


def _will_shrink(progress: CatchUp) -> bool:
    gap_after = (progress.pause_s + _ROUND_TRIP_S) * progress.source_rate
    return gap_after <= _SHRINKS_TO * progress.gap
