"""The checkpoints that the demo, the benchmarks and the tests are made from."""

from __future__ import annotations

from pathlib import Path

from loaders.inspect import inspect
from scripts.demo_checkpoints import make_llama, make_opt, make_tiny
from scripts.sums_in_words import Sum, all_sums


def test_sums_are_asked_and_answered_in_words() -> None:
    assert (Sum(7, 5).question, Sum(7, 5).answer) == ("seven plus five is", " twelve.")
    assert (Sum(0, 40).question, Sum(21, 49).answer) == ("zero plus forty is", " seventy.")
    assert Sum(19, 22).answer == " forty-one."


def test_every_sum_of_two_small_numbers_is_learned() -> None:
    sums = all_sums(10)
    assert len(sums) == len(set(sums)) == 100
    assert Sum(9, 9) in sums


def test_the_demo_llama_can_be_served_even_when_training_is_cut_short(tmp_path: Path) -> None:
    summary = inspect(make_llama(tmp_path, train_seconds_max=0.5))
    assert summary.architecture == "LlamaForCausalLM"
    assert 5e6 < summary.weights_bytes < 30e6
    assert summary.eos_token_ids == (0,)
    assert summary.files.chat_template is not None


def test_the_demo_opt_can_be_served(tmp_path: Path) -> None:
    summary = inspect(make_opt(tmp_path))
    assert summary.architecture == "OPTForCausalLM"
    assert 5e6 < summary.weights_bytes < 30e6


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    first, second, other = (make_tiny(tmp_path / str(index), "opt", seed=index // 2) for index in range(3))
    weights = [(path / "model.safetensors").read_bytes() for path in (first, second, other)]
    assert weights[0] == weights[1] != weights[2]
