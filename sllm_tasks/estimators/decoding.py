"""First-token and token times by model and node, migration times by model, and how long outputs are."""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import fmean

from sllm_tasks.estimators.estimate import Estimate
from sllm_tasks.estimators.facts import JobFact, MigrationFact
from sllm_tasks.estimators.line import LearnedLine, Line

#: Before a job of the model has ended: a prompt of 1,000 tokens in half a second, 20 tokens a second alone.
_FIRST_TOKEN = Line(0.02, 0.0005)
_TOKEN = Line(0.05, 0.001)
#: Fewer tokens than this tell more about the last one's way out than about decoding.
_TELLING_TOKENS = 4
#: Outputs whose lengths are remembered.
_NUM_LENGTHS = 64
#: All nodes together, for one that has not run a model yet.
_ANYWHERE = ""


class TokenTimes:
    """Learns from jobs that ended and from migrations."""

    def __init__(self) -> None:
        # By model and node.
        self._first: dict[tuple[str, str], LearnedLine] = {}
        self._token: dict[tuple[str, str], LearnedLine] = {}
        self._migration: dict[tuple[str, int], LearnedLine] = {}
        self._lengths: defaultdict[str, deque[int]] = defaultdict(lambda: deque(maxlen=_NUM_LENGTHS))

    def learn_job(self, fact: JobFact) -> None:
        """Add a job."""
        for node in dict.fromkeys((_ANYWHERE, fact.node)):
            key = (fact.model, node)
            if fact.first_token_s is not None:
                # A node begins from what the others have shown.
                line = self._first.setdefault(key, LearnedLine(self._first_line(*key).line))
                line.learn(fact.prompt_tokens, fact.first_token_s)
            if fact.token_s is not None and fact.completion_tokens >= _TELLING_TOKENS:
                line = self._token.setdefault(key, LearnedLine(self._token_line(*key).line))
                line.learn(fact.batch, fact.token_s)
        if fact.completion_tokens > 0:
            self._lengths[fact.model].append(fact.completion_tokens)

    def learn_migration(self, fact: MigrationFact) -> None:
        """Add a migration."""
        key = (fact.model, _batch_class(fact.batch))
        if key not in self._migration:
            self._migration[key] = LearnedLine(self._first_line(fact.model, _ANYWHERE).line)
        self._migration[key].learn(fact.num_tokens, fact.seconds)

    def first_token(self, model: str, prompt_tokens: int, node: str) -> Estimate:
        """Time of a prefill."""
        return self._first_line(model, node).at(prompt_tokens)

    def token_time(self, model: str, batch: int, node: str) -> Estimate:
        """Time of a decode step."""
        return self._token_line(model, node).at(batch)

    def migration(self, model: str, batch: int, num_tokens: int) -> Estimate:
        """Time to move a job: what the target has to do is a prefill of all tokens, until migrations were measured."""
        line = self._migration.get((model, _batch_class(batch)))
        return (line or self._first_line(model, _ANYWHERE)).at(num_tokens)

    def tokens_left(self, model: str, num_tokens: int, max_tokens: int) -> float:
        """Mean rest of the known outputs that became longer than this one is."""
        rest = [length - num_tokens for length in self._lengths.get(model, ()) if length > num_tokens]
        most = max(0, max_tokens - num_tokens)
        # Longer than all of them, or nothing is known: anything up to the limit is as likely.
        return min(most, fmean(rest)) if rest else most / 2

    def _first_line(self, model: str, node: str) -> LearnedLine:
        return self._first.get((model, node)) or self._first.get((model, _ANYWHERE)) or LearnedLine(_FIRST_TOKEN)

    def _token_line(self, model: str, node: str) -> LearnedLine:
        return self._token.get((model, node)) or self._token.get((model, _ANYWHERE)) or LearnedLine(_TOKEN)


def _batch_class(batch: int) -> int:
    """Batches of 1, 2, 3-4, 5-8 … are alike."""
    return max(0, batch - 1).bit_length()
