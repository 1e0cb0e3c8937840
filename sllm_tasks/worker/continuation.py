"""How a job goes on after the tokens that it has: what the engine is to read, and the text so far."""

from __future__ import annotations

from collections.abc import Iterable

from sllm_tasks.engines.base import EngineRequest
from sllm_tasks.engines.finish import end_token_ids, finish_reason_of_request
from sllm_tasks.jobs import FinishReason, JobSpec, TokenRecord
from sllm_tasks.migration.records import PrefixHash
from sllm_tasks.worker.replicas import LoadedReplica
from sllm_tasks.worker.text import TextAssembler


class Continuation:
    """A job on a loaded replica, fed with the tokens that were produced elsewhere or before."""

    def __init__(self, spec: JobSpec, loaded: LoadedReplica) -> None:
        self.spec = spec
        self._loaded = loaded
        self._eos_token_ids = loaded.engine.eos_token_ids()
        end_ids = end_token_ids(spec.params, self._eos_token_ids)
        #: Stands behind the last token; a decoding job feeds it further.
        self.assembler = TextAssembler(loaded.tokenizer, spec.prompt_ids, spec.params.stop, end_ids=end_ids)
        #: Of the prompt and the tokens.
        self.prefix = PrefixHash(spec.prompt_ids)
        #: The tokens with their texts, without log probabilities.
        self.records: list[TokenRecord] = []
        self._has_stopped = False

    @property
    def num_tokens(self) -> int:
        """Output tokens so far."""
        return len(self.records)

    def add(self, token_ids: Iterable[int]) -> None:
        """Take tokens that follow those it has."""
        for token_id in token_ids:
            step = self.assembler.push(token_id)
            self._has_stopped |= step.stopped
            self.records.append(TokenRecord(index=len(self.records), token_id=token_id, text=step.text))
            self.prefix.add((token_id,))

    def request(self) -> EngineRequest:
        """The job as an engine sees it."""
        return EngineRequest(
            job_id=self.spec.job_id,
            token_ids=self.spec.prompt_ids + tuple(token.token_id for token in self.records),
            params=self.spec.params,
            num_emitted=len(self.records),
        )

    def finish_reason(self) -> FinishReason | None:
        """Why the job is complete already: its worker may have died before it could say so."""
        if self._has_stopped:
            return FinishReason.STOP
        return finish_reason_of_request(self.request(), self._eos_token_ids, self._loaded.limits)
