"""The checkpoints that the demo, the benchmarks and the tests are made from."""

from __future__ import annotations

from pathlib import Path

from loaders.inspect import inspect
from scripts.demo_checkpoints import make_llama, make_opt, make_tiny
from scripts.sums_in_words import Sum, split_sums


def test_sums_are_asked_and_answered_in_words() -> None:
    assert (Sum(7, 5).question, Sum(7, 5).answer) == ("seven plus five is", " twelve.")
    assert (Sum(0, 40).question, Sum(21, 49).answer) == ("zero plus forty is", " seventy.")
    assert Sum(19, 22).answer == " forty-one."


def test_no_sum_is_both_learned_and_tested() -> None:
    learned, tested = split_sums(10, seed=0)
    assert len(learned) == 80
    assert set(learned) | set(tested) == {Sum(left, right) for left in range(10) for right in range(10)}


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
