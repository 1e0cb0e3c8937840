"""From prompts to token ids."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from webapp.catalog import SamplingDefaults, sampling_defaults
from webapp.chat_template import ChatTemplate
from webapp.errors import ContextLengthError, PromptError
from webapp.prompts import PromptFiles, vocab_size
from webapp.schemas.jobs import ChatMessage, JobInput


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({"one": 0, "two": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _files(template: str | None = None) -> PromptFiles:
    return PromptFiles(_tokenizer(), 5, ChatTemplate(template, {}) if template else None)


def test_messages_need_a_template() -> None:
    messages = JobInput(messages=[ChatMessage(role="user", content="one")])
    assert _files("{{ messages[0].content }} two").encode(messages, 64) == (0, 1)
    with pytest.raises(PromptError, match="no chat template"):
        _files().encode(messages, 64)


def test_a_prompt_without_tokens_is_refused() -> None:
    with pytest.raises(PromptError, match="no token"):
        _files().encode(JobInput(prompt="   "), 64)


def test_a_prompt_with_a_token_that_only_the_tokenizer_has_is_refused() -> None:
    files = PromptFiles(_tokenizer(), 5, None, vocab_size=2)
    assert files.encode(JobInput(prompt="two one"), 64) == (1, 0)
    for beyond in (JobInput(prompt="one three"), JobInput(prompt_ids=(0, 2))):
        with pytest.raises(PromptError, match=r"has 2 tokens, and '<unk>'.* is not one of them"):
            files.encode(beyond, 64)


def test_how_many_tokens_a_model_has_is_known_where_its_config_says_it_of_text() -> None:
    assert vocab_size('{"vocab_size": 300}') == 300
    assert vocab_size('{"vocab_size": 9, "text_config": {"vocab_size": 300}}') == 300
    assert vocab_size('{"vocab_size": 300, "text_config": {}}') == 300
    assert vocab_size('{"text_config": null}') is None
    assert vocab_size("{}") is None


def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenised() -> None:
    with pytest.raises(ContextLengthError):
        _files().encode(JobInput(prompt="one " * 1_000_000), 64)


def test_sampling_defaults_come_from_a_model_that_samples_and_are_greedy_otherwise() -> None:
    assert sampling_defaults(None) == SamplingDefaults(temperature=0.0)
    assert sampling_defaults('{"temperature": 0.7}') == SamplingDefaults(temperature=0.0)
    sampling = json.dumps({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 40})
    assert sampling_defaults(sampling) == SamplingDefaults(temperature=0.7, top_p=0.9, top_k=40)
    assert sampling_defaults('{"do_sample": true}') == SamplingDefaults(temperature=1.0)
    assert sampling_defaults('{"do_sample": true, "temperature": 0}') == SamplingDefaults(temperature=0.0)


@pytest.mark.parametrize(
    "said",
    [
        {"top_k": -1},
        {"top_k": 10**400, "top_p": 0, "temperature": -1},
        {"temperature": "hot", "top_p": [1], "top_k": None},
        {"temperature": float("nan"), "top_p": float("inf"), "top_k": True},
    ],
)
def test_what_a_checkpoint_says_beyond_what_users_may_say_counts_as_not_said(said: dict[str, object]) -> None:
    assert sampling_defaults(json.dumps({"do_sample": True, **said})) == SamplingDefaults(temperature=1.0)
