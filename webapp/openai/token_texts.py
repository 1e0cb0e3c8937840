"""Single tokens as text, for log probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from tokenizers import Tokenizer

from sllm_tasks.jobs import TokenRecord


class TokenTexts:
    """The texts of one tokenizer's tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def text(self, token_id: int) -> str:
        """What a token adds behind another one: decoders drop a space at the beginning of a text."""
        behind = self._decode([*self._anchor, token_id])
        if self._anchor and behind.startswith(self._anchor_text):
            return behind[len(self._anchor_text) :]
        return self._decode([token_id])

    def visible(self, tokens: Sequence[TokenRecord]) -> list[TokenRecord]:
        """Leave out tokens that are no part of the text, such as the one that ends it."""
        return [token for token in tokens if token.token_id not in self._special_ids]

    def _decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))

    @cached_property
    def _anchor(self) -> list[int]:
        return list(self._tokenizer.encode("a", add_special_tokens=False).ids)

    @cached_property
    def _anchor_text(self) -> str:
        return self._decode(self._anchor)

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self._tokenizer.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)
