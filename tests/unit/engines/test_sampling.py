"""Tokens are chosen as docs/sampling.md says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cuda_kernels.reference import gumbel
from sllm_tasks.engines.sampling import Draw, choose
from sllm_tasks.jobs import SamplingParams


def draw(*, position: int = 3, seed: int = 7, **params: float) -> Draw:
    return Draw(params=SamplingParams(max_tokens=1, seed=seed, **params), position=position)


def chosen(logits: list[list[float]], *draws: Draw) -> list[int]:
    return [choice.token_id for choice in choose(torch.tensor(logits), draws)]


def reference_choice(logits: np.ndarray, seed: int, position: int, temperature: float, top_k: int, top_p: float) -> int:
    """Follow the document's steps one by one."""
    scores = logits.astype(np.float64) / temperature
    kept = sorted(range(len(scores)), key=lambda token_id: (-scores[token_id], token_id))[: top_k or None]
    if top_p < 1:
        weights = np.exp(scores[kept] - scores[kept].max())
        before = np.concatenate([[0.0], np.cumsum(weights / weights.sum())[:-1]])
        kept = [token_id for token_id, mass in zip(kept, before, strict=True) if mass < top_p or token_id == kept[0]]
    noise = gumbel(seed, position, np.arange(len(scores)))
    return max(kept, key=lambda token_id: (scores[token_id] + noise[token_id], -token_id))


@given(
    data=st.data(),
    seed=st.integers(0, 2**63),
    position=st.integers(1, 10_000),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 40),
    # Not on a sum of probabilities that rounding could move to the other side.
    top_p=st.sampled_from([0.0137, 0.3719, 0.7713, 0.9531, 1.0]),
)
def test_a_choice_is_the_one_of_the_reference(
    data: st.DataObject, seed: int, position: int, temperature: float, top_k: int, top_p: float
) -> None:
    values = data.draw(st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=30))
    params = draw(seed=seed, position=position, temperature=temperature, top_k=top_k, top_p=top_p)
    expected = reference_choice(np.array(values, np.float32), seed, position, temperature, top_k, top_p)
    assert chosen([values], params) == [expected]


def test_greedy_takes_the_largest_and_of_equal_ones_the_lowest_id() -> None:
    assert chosen([[0.0, 3.0, 3.0, 1.0]], draw()) == [1]


def test_the_best_token_stays_even_when_top_p_is_0() -> None:
    assert chosen([[0.0, 5.0, 1.0]], draw(temperature=1.0, top_p=0.0)) == [1]


@pytest.mark.parametrize("logits", [[0.0, 2.0, -torch.inf], [0.0, 2.0, torch.inf], [0.0, 2.0, torch.nan]])
def test_log_probabilities_are_numbers_that_json_has(logits: list[float]) -> None:
    (choice,) = choose(torch.tensor([logits]), [draw(logprobs=3)])
    assert choice.logprob is not None
    assert len(choice.top) == 3
    json.dumps([choice.logprob, choice.top], allow_nan=False)


def test_a_top_k_below_zero_keeps_all_tokens_as_zero_does() -> None:
    # Requests cannot bring one any more; jobs that were accepted before have it.
    logits = torch.randn(1, 50, generator=torch.Generator().manual_seed(1))
    for seed in range(20):
        none, negative = (draw(seed=seed, temperature=1.0, top_k=top_k, top_p=0.9) for top_k in (0, -1))
        assert choose(logits, [none])[0].token_id == choose(logits, [negative])[0].token_id


def test_of_equal_scores_at_the_border_of_top_k_the_lowest_ids_stay() -> None:
    rows = [[1.0] * 50] * 200
    draws = [draw(seed=seed, temperature=1.0, top_k=2) for seed in range(200)]
    assert set(chosen(rows, *draws)) == {0, 1}


def test_no_row_depends_on_another() -> None:
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).tolist()
    draws = [draw(seed=row, temperature=0.7 * (row % 2), top_k=5 * (row % 3), top_p=1 - 0.1 * row) for row in range(6)]
    assert chosen(logits, *draws) == [chosen([row], each)[0] for row, each in zip(logits, draws, strict=True)]


def test_tokens_are_drawn_as_often_as_the_softmax_says() -> None:
    logits = [1.0, 0.0, -1.0]
    tokens = chosen([logits] * 20_000, *[draw(position=position, temperature=1.0) for position in range(20_000)])
    shares = np.bincount(tokens, minlength=3) / 20_000
    np.testing.assert_allclose(shares, torch.tensor(logits).softmax(0), atol=0.015)


def test_log_probabilities_are_given_only_when_asked_for() -> None:
    plain, with_logprobs, without_top = choose(
        torch.tensor([[0.0, 1.0, 2.0]] * 3), [draw(), draw(logprobs=2), draw(logprobs=0)]
    )
    expected = torch.tensor([0.0, 1.0, 2.0]).log_softmax(0).tolist()
    assert (plain.logprob, plain.top) == (None, ())
    assert with_logprobs.top == ((2, pytest.approx(expected[2])), (1, pytest.approx(expected[1])))
    assert with_logprobs.logprob == pytest.approx(expected[2])
    assert without_top.logprob == pytest.approx(expected[2])
    assert without_top.top == ()
