"""All estimators together: facts in, estimates out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from sllm_tasks.cluster import Tier
from sllm_tasks.estimators.decoding import TokenTimes
from sllm_tasks.estimators.demand import Demand
from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.estimators.facts import ArrivalFact, Fact, JobFact, LoadFact, MigrationFact, StartFact
from sllm_tasks.estimators.loading import LoadTimes
from sllm_tasks.estimators.quiet import QuietTimes
from sllm_tasks.estimators.starts import StartTimes


class LearnedEstimates:
    """Implements `Estimates`; it keeps nothing that the facts, told again in their order, would not bring back."""

    def __init__(self, facts: Iterable[Fact] = ()) -> None:
        self._loads = LoadTimes()
        self._tokens = TokenTimes()
        self._starts = StartTimes()
        self._demand = Demand()
        self._quiet = QuietTimes()
        for fact in facts:
            self.learn(fact)

    def learn(self, fact: Fact) -> None:
        """Add a fact."""
        match fact:
            case LoadFact():
                self._loads.learn(fact)
            case JobFact():
                self._tokens.learn_job(fact)
            case MigrationFact():
                self._tokens.learn_migration(fact)
            case StartFact():
                self._starts.learn(fact)
            case ArrivalFact():
                self._demand.learn(fact.model, fact.at_s)
                self._quiet.learn(fact.model, fact.at_s)
            case _:
                assert_never(fact)

    def loading(self, node: str, tier: Tier, num_bytes: int, *, queued_bytes: int = 0) -> Estimate:
        """See `Estimates.loading`."""
        return self._loads.estimate(node, tier, num_bytes, queued_bytes)

    def load_ratios(self) -> tuple[float, ...]:
        """The last loads in units of what had been predicted for them: how much they vary, for simulations."""
        return self._loads.ratios()

    def first_token(self, model: str, prompt_tokens: int, *, node: str = "") -> Estimate:
        """See `Estimates.first_token`."""
        return self._tokens.first_token(model, prompt_tokens, node)

    def start(self, path: str, total: Estimate) -> Estimate:
        """See `Estimates.start`."""
        return self._starts.corrected(path, total)

    def token_time(self, model: str, batch: int, *, node: str = "") -> Estimate:
        """See `Estimates.token_time`."""
        return self._tokens.token_time(model, batch, node)

    def migration(self, model: str, batch: int, num_tokens: int) -> Estimate:
        """See `Estimates.migration`."""
        return self._tokens.migration(model, batch, num_tokens)

    def tokens_left(self, model: str, num_tokens: int, max_tokens: int) -> float:
        """See `Estimates.tokens_left`."""
        return self._tokens.tokens_left(model, num_tokens, max_tokens)

    def wanted(self, model: str, within_s: float, idle_s: float) -> float:
        """See `Estimates.wanted`."""
        return self._demand.wanted(model, within_s, idle_s)

    def quiet_s(self, model: str, now_s: float) -> float | None:
        """See `Estimates.quiet_s`."""
        return self._quiet.quiet_s(model, now_s)

    def hit_rate(self, model: str, quiet_s: float, within_s: float) -> float:
        """See `Estimates.hit_rate`."""
        return self._quiet.hit_rate(model, quiet_s, within_s)
