"""How long a move of a running job takes, and for how much of that its reader waits."""

from __future__ import annotations

from dataclasses import dataclass

from sllm_tasks.estimators.base import Estimates
from sllm_tasks.estimators.estimate import Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveTime:
    """To a replica that is loaded."""

    whole: Estimate
    pause_s: float


def move_time(estimates: Estimates, model: str, *, num_tokens: int, token_s: float, num_there: int) -> MoveTime:
    """Predict the move of a job of so many tokens, prompt included.

    It goes on where it is, a token in `token_s`, while its target reads what it has; it pauses while the target reads
    what it has produced meanwhile. `num_there` jobs are on the target then, this one included.
    """
    whole = estimates.migration(model, num_there, num_tokens)
    num_meanwhile = min(int(whole.seconds / max(1e-6, token_s)), num_tokens)
    return MoveTime(whole=whole, pause_s=estimates.migration(model, num_there, num_meanwhile).seconds)
