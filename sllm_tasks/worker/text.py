"""Turn token ids into text while they arrive: never half a character, never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from sllm_tasks.worker.stop_strings import StopStringFilter

#: What decoders write for bytes that are not (yet) a character.
_REPLACEMENT = "\ufffd"
#: Tokens that may wait for the rest of a character. One has at most 4 bytes, hence 4 tokens; more than this many are
#: not half a character but bytes that will never be one, and waiting for them would make each step slower.
_MAX_PENDING = 16


@dataclass(frozen=True, slots=True)
class TextStep:
    """What one token added."""

    #: Text that became certain; may be empty.
    text: str
    #: Whether a stop string is complete; nothing follows.
    stopped: bool


class TextAssembler:
    """The text of one job's output.

    All steps together give what decoding prompt and output at once gives behind the prompt, cut at the first stop
    string. The same tokens always give the same steps, so a resumed job gets its state back by pushing again what was
    emitted before.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        stop: tuple[str, ...] = (),
        *,
        end_ids: frozenset[int] = frozenset(),
    ) -> None:
        """Tokens of `end_ids` end a job and have no text."""
        self._decoder = _IncrementalDecoder(tokenizer, prompt_ids)
        self._filter = StopStringFilter(stop)
        self._end_ids = end_ids

    def push(self, token_id: int, final: bool = False) -> TextStep:
        """Add a token; `final` says that none follows, which releases everything held back."""
        text = "" if token_id in self._end_ids else self._filter.push(self._decoder.push(token_id))
        return TextStep(text + self._release(), self._filter.stopped) if final else TextStep(text, self._filter.stopped)

    def finish(self) -> TextStep:
        """Release everything held back, for an end that no token announced."""
        return TextStep(self._release(), self._filter.stopped)

    def _release(self) -> str:
        return self._filter.push(self._decoder.flush()) + self._filter.flush()


class _IncrementalDecoder:
    """Decodes a window: some settled tokens, which give the new ones their context, and the pending ones."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._special_ids = frozenset(
            token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special
        )
        self._settled = self._tail_with_text(prompt_ids)
        self._settled_text = self._decode(self._settled)
        self._pending: list[int] = []

    def push(self, token_id: int) -> str:
        # A model's vocabulary may be padded past its tokenizer's; such ids have no text either.
        if token_id in self._special_ids or self._tokenizer.id_to_token(token_id) is None:
            return ""
        self._pending.append(token_id)
        text = self._pending_text()
        if text and not text.endswith(_REPLACEMENT):
            self._settle(len(self._pending))
            return text
        return self._push_out() if len(self._pending) > _MAX_PENDING else ""

    def flush(self) -> str:
        text = self._pending_text()
        self._settle(len(self._pending))
        return text

    def _push_out(self) -> str:
        """Settle the longest part of the pending tokens behind which no character continues."""
        whole = self._pending_text()
        for count in range(len(self._pending) - 1, 0, -1):
            head = self._text_behind_settled(self._pending[:count])
            if head + self._decode(self._pending[count:]) == whole:
                self._settle(count)
                return head
        return ""

    def _settle(self, count: int) -> None:
        if count:
            self._settled, self._pending = self._pending[:count], self._pending[count:]
            self._settled_text = self._decode(self._settled)

    def _pending_text(self) -> str:
        return self._text_behind_settled(self._pending) if self._pending else ""

    def _text_behind_settled(self, token_ids: list[int]) -> str:
        text = self._decode(self._settled + token_ids)
        if text.startswith(self._settled_text):
            return text[len(self._settled_text) :]
        # The settled tokens read differently with these behind them: bytes that were no character became one, or
        # the other way round. What was given out stands.
        return self._decode(token_ids)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids)

    def _tail_with_text(self, prompt_ids: Sequence[int]) -> list[int]:
        """Take as much of the prompt's end as has text that ends with a whole character.

        Decoders drop a leading space, so the first token of the output needs something in front of it; and a long
        prompt must not be decoded again with every token.
        """
        length = 4
        while True:
            tail = [token_id for token_id in prompt_ids[-length:] if token_id not in self._special_ids]
            text = self._decode(tail)
            if length >= len(prompt_ids) or text.strip(_REPLACEMENT + " "):
                return tail
            length *= 4
