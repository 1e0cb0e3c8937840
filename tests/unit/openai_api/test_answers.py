"""Answers as OpenAI writes them."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models

from sllm_tasks.jobs import TokenRecord
from webapp.openai.answers import Choice, Envelope
from webapp.openai.token_texts import TokenTexts


def test_of_tokens_with_one_text_the_log_probability_of_the_most_probable_is_told() -> None:
    # Two bytes that begin a character and are none by themselves.
    tokenizer = Tokenizer(models.BPE({"a": 0, "\u00e4": 1, "\u00e5": 2}, []))
    tokenizer.decoder = decoders.ByteLevel()
    envelope = Envelope(endpoint="/v1/completions", job_id="job_1", model="m", created_s=0, texts=TokenTexts(tokenizer))
    token = TokenRecord(index=0, token_id=1, text="", logprob=-0.5, top=((1, -0.5), (0, -1.5), (2, -2.5)))
    choice = Choice(text="", finish_reason="length", prompt_tokens=1, completion_tokens=1, tokens=(token,))
    logprobs = envelope.whole([choice])["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["\ufffd"]
    assert list(logprobs["top_logprobs"][0].items()) == [("\ufffd", -0.5), ("a", -1.5)]
