"""A job of the step loop: its tokens, and how many of them the model has read."""

from __future__ import annotations

from dataclasses import dataclass

from sllm_tasks.engines.base import EngineRequest, EngineToken
from sllm_tasks.engines.batch_model import Prefill
from sllm_tasks.engines.finish import finish_reason
from sllm_tasks.engines.sampling import Choice, Draw


@dataclass(slots=True, eq=False)
class StepJob:
    """Mutable; `token_ids` and the flags change under the engine's lock, `prefill` is the engine thread's."""

    request: EngineRequest
    end_ids: frozenset[int]
    #: Prompt and output; the engine's thread appends, others may copy.
    token_ids: list[int]
    #: While its prompt is on its way into the model.
    prefill: Prefill | None = None
    #: It is decoded elsewhere: its tokens are only read, all but the last.
    is_read_only: bool = False
    #: The last call of `prefill` has its answer.
    is_answered: bool = True
    aborted: bool = False

    @property
    def num_unread(self) -> int:
        """Tokens that can be read now."""
        # In this order: once it is to be decoded, its tokens are complete.
        held_back = 1 if self.is_read_only else 0
        seen = self.prefill.num_tokens if self.prefill is not None else 0
        return len(self.token_ids) - held_back - seen

    @property
    def draw(self) -> Draw:
        """What its next token depends on."""
        return Draw(params=self.request.params, position=len(self.token_ids))

    def take(self, choice: Choice, context: int) -> EngineToken:
        """Append a token and say what became of it."""
        index = len(self.token_ids) - self.request.num_prompt_tokens
        self.token_ids.append(choice.token_id)
        return EngineToken(
            job_id=self.request.job_id,
            index=index,
            token_id=choice.token_id,
            logprob=choice.logprob,
            top=choice.top,
            finish_reason=finish_reason(
                self.request.params,
                self.end_ids,
                token_id=choice.token_id,
                num_output=index + 1,
                num_tokens=len(self.token_ids),
                context=context,
            ),
        )
