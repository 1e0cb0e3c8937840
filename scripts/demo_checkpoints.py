"""Write small, real Hugging Face checkpoints without a hub: for the demo, the benchmarks and the tests."""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.utils.logging import disable_progress_bar

from scripts.sums_in_words import Sum, all_sums

_EOS = "</s>"
_EOS_ID = 0
#: The question is the whole prompt, in a chat as well.
_CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def make_llama(path: Path, *, train_seconds_max: float = 60, seed: int = 0) -> Path:
    """Write a Llama that knows the sums of numbers below twenty: "seven plus five is" → " twelve.", then its end.

    It has learned them by heart, in 10 to 20 s of one core, and never more than `train_seconds_max` seconds of
    wall-clock time. The same seed gives the same weights on the same machine, unless that limit cuts it short.
    """
    sums = all_sums(_SUMS_BELOW)
    tokenizer = _train_tokenizer([sum_.question + sum_.answer for sum_ in sums])
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_llama_config(tokenizer), dtype=torch.float32)
    with _one_thread():
        _train(model, tokenizer, sums, train_seconds_max=train_seconds_max, seed=seed)
    return _write(path, model, tokenizer, chat_template=_CHAT_TEMPLATE)


def make_opt(path: Path, *, num_layers: int = 4, seed: int = 0) -> Path:
    """Write an OPT of random weights, of some 6 MB with four layers: it talks nonsense, at once and for ever."""
    tokenizer = _train_tokenizer([sum_.question + sum_.answer for sum_ in all_sums(_SUMS_BELOW)])
    config = OPTConfig(
        vocab_size=512,
        hidden_size=192,
        word_embed_proj_dim=192,
        ffn_dim=576,
        num_hidden_layers=num_layers,
        num_attention_heads=6,
        max_position_embeddings=2048,
        **_TOKEN_IDS,
    )
    return _write_random(path, config, tokenizer, dtype=torch.float32, seed=seed)


def make_tiny(path: Path, architecture: str = "llama", *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Write a random checkpoint of some 200 kB; `architecture` is a key of TINY_CONFIGS."""
    tokenizer = _train_tokenizer(["tiny checkpoints for tests"], vocab_size=300)
    return _write_random(path, TINY_CONFIGS[architecture], tokenizer, dtype=dtype, seed=seed)


_TOKEN_IDS: dict[str, Any] = {"bos_token_id": None, "pad_token_id": None, "eos_token_id": _EOS_ID}
_TINY: dict[str, Any] = {"vocab_size": 300, "max_position_embeddings": 512, **_TOKEN_IDS}
_TINY_ROTARY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    **_TINY,
}
TINY_CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**_TINY_ROTARY, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**_TINY_ROTARY),
    "mixtral": MixtralConfig(**_TINY_ROTARY, num_local_experts=4),
    "gemma": GemmaConfig(**_TINY_ROTARY),
    "opt": OPTConfig(
        hidden_size=64, word_embed_proj_dim=64, ffn_dim=128, num_hidden_layers=2, num_attention_heads=4, **_TINY
    ),
    "gpt2": GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=512, vocab_size=300, **_TOKEN_IDS),
}

#: Found by trial: these many sums are known by heart after these many steps.
_SUMS_BELOW = 20
_NUM_STEPS = 200
_BATCH_SIZE = 50
_PEAK_LEARNING_RATE = 2e-3
_WARMUP_STEPS = 30

#: Token ids and labels.
_Row = tuple[list[int], list[int]]


def _llama_config(tokenizer: Tokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=672,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        # 1 / sqrt(hidden_size): with the usual 0.02, a model as narrow as this needs twice the steps.
        initializer_range=0.06,
        **_TOKEN_IDS,
    )


def _train(
    model: PreTrainedModel, tokenizer: Tokenizer, sums: Sequence[Sum], *, train_seconds_max: float, seed: int
) -> None:
    rows = [_training_row(tokenizer, sum_) for sum_ in sums]
    batches = _shuffled(rows, random.Random(seed))
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, betas=(0.9, 0.95))
    start_s = time.monotonic()
    for step in range(_NUM_STEPS):
        # On a slow machine the learning rate falls with the time instead, so that training ends well in any case.
        done = max(step / _NUM_STEPS, (time.monotonic() - start_s) / train_seconds_max)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_LEARNING_RATE * min((step + 1) / _WARMUP_STEPS, 1 - done)
        token_ids, labels = _batch(next(batches))
        optimizer.zero_grad()
        model(input_ids=token_ids, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def _shuffled(rows: Sequence[_Row], chosen: random.Random) -> Iterator[Sequence[_Row]]:
    """Batches that have every row once before any has one again."""
    while True:
        order = chosen.sample(rows, len(rows))
        for start in range(0, len(order) - _BATCH_SIZE + 1, _BATCH_SIZE):
            yield order[start : start + _BATCH_SIZE]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one core: such small matrices gain little from a second, and lose 9/10 when others use it too."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _training_row(tokenizer: Tokenizer, sum_: Sum) -> _Row:
    """Token ids, and labels that ask for the answer only."""
    question = tokenizer.encode(sum_.question).ids
    answer = [*tokenizer.encode(sum_.answer).ids, _EOS_ID]
    return question + answer, [-100] * len(question) + answer


def _batch(rows: Sequence[_Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad on the right: later positions are never looked at by earlier ones."""
    length = max(len(token_ids) for token_ids, _ in rows)
    return (
        torch.tensor([token_ids + [_EOS_ID] * (length - len(token_ids)) for token_ids, _ in rows]),
        torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in rows]),
    )


def _train_tokenizer(texts: Sequence[str], vocab_size: int = 512) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _write_random(path: Path, config: PreTrainedConfig, tokenizer: Tokenizer, *, dtype: torch.dtype, seed: int) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # Initial weights give nearly flat logits, where the smallest rounding decides between tokens; trained ones do not.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return _write(path, model, tokenizer)


def _write(path: Path, model: PreTrainedModel, tokenizer: Tokenizer, chat_template: str | None = None) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(eos_token_id=_EOS_ID)
    # A bar for a file of a few megabytes is noise.
    disable_progress_bar()
    model.save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": _EOS}
    if chat_template is not None:
        settings["chat_template"] = chat_template
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return path


def main() -> None:
    """Write both demo checkpoints below a directory."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    directory = parser.parse_args().directory
    print(make_llama(directory / "demo-llama"))
    print(make_opt(directory / "demo-opt"))


if __name__ == "__main__":
    main()
