"""What is tried when a weight is first seen: whether rows come out the same, whatever they are multiplied beside."""

from __future__ import annotations

import pytest
import torch

from sllm_tasks.engines.rows.arithmetic import cancelling_rows, equal_sizes

_EVERY_SIZE = (64, 16, 8, 4, 2, 1)


def _weight(num_outputs: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(96, num_outputs, generator=torch.Generator().manual_seed(1)).to(dtype)


def _in_order(rows: torch.Tensor, weight: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Multiply as a library does: sums in fp32, one term after the other, rounded in the end."""
    sums = torch.zeros(len(rows), weight.shape[1])
    for index in order.tolist():
        sums += rows[:, index, None].float() * weight[index].float()
    return sums.to(rows.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("num_outputs", [1, 5, 300])
def test_each_row_cancels_with_a_column_but_for_rounding(num_outputs: int, dtype: torch.dtype) -> None:
    weight = _weight(num_outputs, dtype)
    rows = cancelling_rows(weight)
    assert (rows.shape, rows.dtype, rows.is_contiguous()) == ((64, 96), dtype, True)
    sums, sizes = rows.double() @ weight.double(), rows.double().abs() @ weight.double().abs()
    assert ((sums.abs() <= 1e-9 * sizes).sum(1) >= 1).all()
    assert ((sums.abs() <= 1e-9 * sizes).any(0)).sum() == min(num_outputs, 64)


def test_another_order_of_additions_is_seen_though_bf16_hides_it_in_ordinary_rows() -> None:
    weight = _weight(32, torch.bfloat16)
    forward, backward = torch.arange(96), torch.arange(95, -1, -1)

    def product(rows: torch.Tensor) -> torch.Tensor:
        return _in_order(rows, weight, backward if len(rows) == 1 else forward)

    ordinary = torch.randn(64, 96, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    differing = _in_order(ordinary, weight, forward) != _in_order(ordinary, weight, backward)
    assert differing.float().mean() < 0.01
    assert equal_sizes(cancelling_rows(weight), product) == _EVERY_SIZE[:-1]


def test_what_depends_on_the_place_of_a_row_is_refused() -> None:
    weight = _weight(8, torch.float32)

    def product(rows: torch.Tensor) -> torch.Tensor:
        return rows @ weight + torch.arange(len(rows))[:, None]

    with pytest.raises(ValueError, match="its place among others"):
        equal_sizes(cancelling_rows(weight), product)
