"""Text from tokens: whole characters, right spaces, stop strings cut off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sllm_tasks.worker.stop_strings import StopStringFilter
from sllm_tasks.worker.text import TextAssembler, TextStep

CORPUS = ["the quick brown fox jumps over the lazy dog", "naïve café 你好 世界", "hello hello  world\n\n  indented"]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def metaspace() -> Tokenizer:
    """Build what Llama 2 uses: spaces as U+2581, other characters as byte tokens, one leading space dropped."""
    letters = "▁" + "".join(sorted(set("".join(CORPUS)) - {" "}))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁h", "he", "▁t", "th"]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [("▁", "h"), ("h", "e"), ("▁", "t"), ("t", "h")]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


TOKENIZERS = {"byte_level": byte_level(), "metaspace": metaspace()}

#: Characters of one to four bytes, joined emoji, combining marks and the replacement character itself.
SNIPPETS = [
    "hello ",
    " the",
    "  ",
    "\n",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\U0001f44d\U0001f3fd",
    "e\u0301",
    "你好",
    "\ufffd",
]
TEXTS = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(SNIPPETS)), max_size=12).map("".join)
PROMPTS = st.sampled_from(["", "hello", "the fox 😀", "你", "x" * 40, "<s>hello", "  "])


def assemble(assembler: TextAssembler, token_ids: list[int]) -> str:
    steps = [assembler.push(token_id, index == len(token_ids) - 1) for index, token_id in enumerate(token_ids)]
    return "".join(step.text for step in steps)


def batch_decode(tokenizer: Tokenizer, prompt_ids: list[int], output_ids: list[int]) -> str:
    return tokenizer.decode(prompt_ids + output_ids)[len(tokenizer.decode(prompt_ids)) :]


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(prompt=PROMPTS, output=TEXTS)
def test_all_steps_together_are_the_batch_decode(kind: str, prompt: str, output: str) -> None:
    tokenizer = TOKENIZERS[kind]
    prompt_ids = tokenizer.encode(prompt).ids
    output_ids = tokenizer.encode(prompt + output).ids[len(prompt_ids) :]
    assert assemble(TextAssembler(tokenizer, prompt_ids), output_ids) == batch_decode(tokenizer, prompt_ids, output_ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(output=TEXTS.filter(lambda text: "\ufffd" not in text))
def test_no_step_holds_half_a_character(kind: str, output: str) -> None:
    tokenizer = TOKENIZERS[kind]
    assembler = TextAssembler(tokenizer, tokenizer.encode("hello").ids)
    for token_id in tokenizer.encode(output).ids:
        assert "\ufffd" not in assembler.push(token_id).text


@given(token_ids=st.lists(st.integers(0, 340), max_size=60))
def test_any_bytes_come_out_as_the_batch_decode_at_the_latest_with_the_last_token(token_ids: list[int]) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    prompt_ids = tokenizer.encode("hello").ids
    text = assemble(TextAssembler(tokenizer, prompt_ids), token_ids)
    assert text == batch_decode(tokenizer, prompt_ids, token_ids)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(token_ids=st.lists(st.integers(3, 300), max_size=40), cut=st.integers(0, 40))
def test_pushing_the_same_tokens_again_rebuilds_the_same_state(kind: str, token_ids: list[int], cut: int) -> None:
    tokenizer = TOKENIZERS[kind]
    first = TextAssembler(tokenizer, [5, 6], ("the", "he "))
    steps = [first.push(token_id) for token_id in token_ids]
    resumed = TextAssembler(tokenizer, [5, 6], ("the", "he "))
    assert [resumed.push(token_id) for token_id in token_ids[:cut]] == steps[:cut]
    assert [resumed.push(token_id) for token_id in token_ids[cut:]] == steps[cut:]


def test_bytes_that_never_become_a_character_do_not_pile_up() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    broken = tokenizer.token_to_id("\u00a9")  # how byte-level BPE writes the continuation byte 0xA9
    assembler = TextAssembler(tokenizer, tokenizer.encode("hello").ids)
    texts = [assembler.push(broken).text for _ in range(100)]
    assert sum(map(len, texts)) >= 80


def test_the_leading_space_of_the_first_word_is_kept() -> None:
    tokenizer = TOKENIZERS["metaspace"]
    prompt_ids = tokenizer.encode("hello").ids
    assembler = TextAssembler(tokenizer, prompt_ids)
    assert assembler.push(tokenizer.token_to_id("▁t")).text == " t"


def test_special_tokens_and_end_ids_have_no_text() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    hello = tokenizer.encode("hello").ids[0]
    assembler = TextAssembler(tokenizer, [hello], end_ids=frozenset({hello}))
    assert assembler.push(tokenizer.token_to_id("<s>")) == TextStep("", stopped=False)
    assert assembler.push(hello, final=True) == TextStep("", stopped=False)


def test_held_back_text_comes_out_with_the_last_token() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    token_ids = tokenizer.encode("hello wor").ids
    assembler = TextAssembler(tokenizer, [], ("world",))
    assert "".join(assembler.push(token_id).text for token_id in token_ids) == "hello "
    assert assembler.finish() == TextStep("wor", stopped=False)
    assert assemble(TextAssembler(tokenizer, [], ("world",)), token_ids) == "hello wor"


def test_a_stop_string_is_cut_off_even_across_tokens() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    assembler = TextAssembler(tokenizer, [], ("o wo",))
    steps = [assembler.push(token_id) for token_id in tokenizer.encode("hello world").ids]
    assert "".join(step.text for step in steps) == "hell"
    assert steps[-1] == TextStep("", stopped=True)


def reference_cut(text: str, stops: list[str]) -> tuple[str, bool]:
    ends = [(end, -len(stop)) for stop in stops for end in range(len(text) + 1) if text[:end].endswith(stop)]
    if not ends:
        return text, False
    end, minus_length = min(ends)
    return text[: end + minus_length], True


@given(
    text=st.text("ab", max_size=30),
    stops=st.lists(st.text("ab", min_size=1, max_size=5), max_size=6),
    piece=st.integers(1, 7),
)
def test_the_stop_string_that_ends_first_wins_however_the_text_is_cut(text: str, stops: list[str], piece: int) -> None:
    stop_filter = StopStringFilter(tuple(stops))
    out = "".join(stop_filter.push(text[start : start + piece]) for start in range(0, len(text), piece))
    assert (out + stop_filter.flush(), stop_filter.stopped) == reference_cut(text, stops)


def test_no_more_is_held_back_than_the_longest_beginning_of_a_stop_string() -> None:
    stop_filter = StopStringFilter(("abcabd", "bcx"))
    assert stop_filter.push("zabcab") == "z"
    assert stop_filter.push("c") == "abc"
    assert stop_filter.flush() == "abc"


def test_an_empty_stop_string_stops_nothing() -> None:
    stop_filter = StopStringFilter(("",))
    assert stop_filter.push("abc") == "abc"
    assert not stop_filter.stopped
