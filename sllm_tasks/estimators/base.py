"""What a decision asks about the future: the seam between the policy and whatever has learned from the past."""

from __future__ import annotations

from typing import Protocol

from sllm_tasks.cluster import Tier
from sllm_tasks.estimators.estimate import Estimate


class Estimates(Protocol):
    """Answers depend on nothing but the questions and on what was learned before; asking changes nothing."""

    def loading(self, node: str, tier: Tier, num_bytes: int, *, queued_bytes: int = 0) -> Estimate:
        """Time to load `num_bytes` of a checkpoint to a gpu: `q + n/b + start`.

        `tier` is the slowest one on the way. `queued_bytes` have to pass through it first.
        """

    def first_token(self, model: str, prompt_tokens: int, *, node: str = "") -> Estimate:
        """Time from the moment a job reaches a loaded replica to its first token; on any node unless one is named."""

    def start(self, path: str, total: Estimate) -> Estimate:
        """Time from a decision to the first token, given the sum of its parts and how the job is to start."""

    def token_time(self, model: str, batch: int, *, node: str = "") -> Estimate:
        """Time from one token of a job to its next while so many jobs are decoded together; nodes as above."""

    def migration(self, model: str, batch: int, num_tokens: int) -> Estimate:
        """Time to move a running job of so many tokens, prompt included, to a loaded replica: `a·tokens + b`."""

    def tokens_left(self, model: str, num_tokens: int, max_tokens: int) -> float:
        """Mean number of tokens that a job will still produce after `num_tokens`."""

    def wanted(self, model: str, within_s: float, idle_s: float) -> float:
        """Probability that a job of the model comes within a time, when none has come for `idle_s`."""

    def quiet_s(self, model: str, now_s: float) -> float | None:
        """Time since the last job of a model came, None if none ever did."""

    def hit_rate(self, model: str, quiet_s: float, within_s: float) -> float:
        """Jobs of a model per second that a replica is held for them, at the best of all times up to `within_s`.

        No job has come for `quiet_s`; the replica is given up when that time is over, or the job is there.
        """
