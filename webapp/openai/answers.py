"""Completions as OpenAI writes them, whole and in chunks; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from sllm_tasks.jobs import TokenRecord
from webapp.openai.token_texts import TokenTexts
from webapp.openai.translate import Endpoint

Json = dict[str, Any]
CHAT: Final = "/v1/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One finished answer."""

    text: str
    finish_reason: str
    #: None where log probabilities were not asked for.
    tokens: Sequence[TokenRecord] | None
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What an answer and all its chunks say of themselves."""

    endpoint: Endpoint
    job_id: str
    model: str
    created_s: int
    texts: TokenTexts
    #: Prompts are counted once, however many choices were made of them.
    choices_per_prompt: int = 1

    @property
    def id(self) -> str:
        """The job's id under OpenAI's kind of name."""
        kind = "chatcmpl" if self.endpoint == CHAT else "cmpl"
        return f"{kind}-{self.job_id.removeprefix('job_')}"

    def whole(self, choices: Sequence[Choice]) -> Json:
        """The whole answer."""
        kind = "chat.completion" if self.endpoint == CHAT else "text_completion"
        written = [self._choice(index, choice) for index, choice in enumerate(choices)]
        return {**self._head(kind), "choices": written, "usage": self.usage(choices)}

    def chunk(
        self,
        index: int,
        text: str,
        *,
        is_first: bool = False,
        finish_reason: str | None = None,
        tokens: Sequence[TokenRecord] | None = None,
    ) -> Json:
        """One chunk of one choice."""
        if self.endpoint == CHAT:
            delta: Json = {"role": "assistant", "content": ""} if is_first else {}
            if text:
                delta["content"] = text
            logprobs = None if tokens is None else self._chat_logprobs(tokens)
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
            return {**self._head("chat.completion.chunk"), "choices": [choice]}
        logprobs = None if tokens is None else self._completion_logprobs(tokens)
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head("text_completion"), "choices": [choice]}

    def usage_chunk(self, choices: Sequence[Choice]) -> Json:
        """The chunk before the end of a stream, for those who asked for it."""
        kind = "chat.completion.chunk" if self.endpoint == CHAT else "text_completion"
        return {**self._head(kind), "choices": [], "usage": self.usage(choices)}

    def usage(self, choices: Sequence[Choice]) -> Json:
        """Token counts of all choices together."""
        prompt = sum(choice.prompt_tokens for choice in choices[:: self.choices_per_prompt])
        completion = sum(choice.completion_tokens for choice in choices)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "system_fingerprint": None,
        }

    def _choice(self, index: int, choice: Choice) -> Json:
        if self.endpoint == CHAT:
            message = {"role": "assistant", "content": choice.text, "refusal": None}
            logprobs = None if choice.tokens is None else self._chat_logprobs(choice.tokens)
            return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": choice.finish_reason}
        logprobs = None if choice.tokens is None else self._completion_logprobs(choice.tokens)
        return {"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _chat_logprobs(self, tokens: Sequence[TokenRecord]) -> Json:
        content = [
            {
                **self._chat_token(token.token_id, token.logprob),
                "top_logprobs": [self._chat_token(token_id, logprob) for token_id, logprob in token.top],
            }
            for token in self.texts.visible(tokens)
        ]
        return {"content": content, "refusal": None}

    def _chat_token(self, token_id: int, logprob: float | None) -> Json:
        text = self.texts.text(token_id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}

    def _completion_logprobs(self, tokens: Sequence[TokenRecord]) -> Json:
        visible = self.texts.visible(tokens)
        texts = [self.texts.text(token.token_id) for token in visible]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in visible],
            "top_logprobs": [self._by_text(token.top) for token in visible],
            "text_offset": list(accumulate(map(len, texts), initial=0))[:-1],
        }

    def _by_text(self, top: Sequence[tuple[int, float]]) -> Json:
        found: Json = {}
        for token_id, logprob in top:
            # Of tokens with one text, such as parts of characters, the first is the most probable.
            found.setdefault(self.texts.text(token_id), logprob)
        return found
