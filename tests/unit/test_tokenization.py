"""Tokenizers that checkpoints share."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from sllm_tasks.errors import ErrorCode, ModelUnusableError
from sllm_tasks.tokenization import Tokenizers


def _tokenizer(*words: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[-1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _file(*words: str) -> bytes:
    return _tokenizer(*words).to_str().encode()


def test_a_tokenizer_that_cuts_and_pads_for_training_does_neither_here() -> None:
    trained = _tokenizer("one", "two", "<unk>")
    trained.enable_truncation(2)
    trained.enable_padding(length=8)
    assert Tokenizers(1).parse(trained.to_str().encode()).encode("one two one").ids == [0, 1, 0]


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b'{"model": 1}', b"\xff\xfe"])
def test_a_tokenizer_that_cannot_be_read_is_missing(content: bytes) -> None:
    with pytest.raises(ModelUnusableError) as caught:
        Tokenizers(1).parse(content)
    assert caught.value.code is ErrorCode.TOKENIZER_MISSING


def test_files_that_hold_the_same_share_a_tokenizer() -> None:
    tokenizers = Tokenizers(2)
    assert tokenizers.parse(_file("one", "two")) is tokenizers.parse(_file("one", "two"))
    assert tokenizers.has_room


def test_the_tokenizer_that_was_not_asked_for_for_longest_is_forgotten() -> None:
    tokenizers = Tokenizers(2)
    first, second = tokenizers.parse(_file("one")), tokenizers.parse(_file("two"))
    assert not tokenizers.has_room
    assert tokenizers.parse(_file("one")) is first
    tokenizers.parse(_file("three"))
    assert tokenizers.parse(_file("one")) is first
    assert tokenizers.parse(_file("two")) is not second
