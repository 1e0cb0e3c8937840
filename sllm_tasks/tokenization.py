"""Tokenizers that came with checkpoints, parsed once however many checkpoints share one.

Parsing a made one of 128,000 tokens (11 MB) took about a second on two busy cores, with the interpreter held, and left
45 to 96 MB; every load and every fine-tuned model would pay for it again.
"""

from __future__ import annotations

import hashlib
import threading

from tokenizers import Tokenizer

from sllm_tasks.errors import ErrorCode, ModelUnusableError


class Tokenizers:
    """The tokenizers that were asked for last, by what their files hold; safe to use from many threads."""

    def __init__(self, max_kept: int) -> None:
        self._max_kept = max_kept
        # Held while one is parsed, so that two threads do not parse it twice.
        self._lock = threading.Lock()
        self._kept: dict[bytes, Tokenizer] = {}

    @property
    def has_room(self) -> bool:
        """Whether another one is kept without forgetting one."""
        return len(self._kept) < self._max_kept

    def parse(self, content: bytes) -> Tokenizer:
        """Read a tokenizer.json; raises ModelUnusableError. Others use what is returned: it must not be changed."""
        digest = hashlib.sha256(content).digest()
        with self._lock:
            tokenizer = self._kept.pop(digest, None) or _parse(content)
            self._kept[digest] = tokenizer
            if len(self._kept) > self._max_kept:
                del self._kept[next(iter(self._kept))]
        return tokenizer


def _parse(content: bytes) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:
        raise ModelUnusableError(ErrorCode.TOKENIZER_MISSING, "the tokenizer of this model cannot be read") from error
    # Some files ask for cutting and filling up, for training; a prompt is taken as it is.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
