"""Arithmetic whose rows do not depend on each other, nor on how many there are.

A library chooses another kernel, and so another order of additions, for another number of rows. Here a row's result is
*defined* as what a product of 8 rows gives. Other sizes are used only where they gave the same bits with the very
shape of that weight, which is tried when a shape is first seen; with rows whose products cancel, since a sum that is
rounded to bf16 hides its order: such products of 1 and of 8 rows differed in 0 to 0.02 % of bits with random rows, and
in 96 % with these (AMD EPYC with AVX512_BF16).

Functions of single elements are computed by vector units in whole vectors and differently for what is left over at the
end of each thread's part. They are cut so that one thread has no remainder, or so that all rows have the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

#: Rows of the product that defines all results. With fewer, fp32 results depended on the number of rows and of threads.
CANONICAL_ROWS: Final = 8
#: Sizes that are tried, largest first. No more than 64 rows go through the model together.
_SIZES: Final = (64, 16, CANONICAL_ROWS, 4, 2, 1)
#: A remainder is padded to the next size if it fills this much of it; otherwise it is taken apart.
_FILLED: Final = 0.75

#: Torch gives a function of so many elements to one thread (`at::internal::GRAIN_SIZE`).
_ELEMENTS_OF_ONE_THREAD: Final = 32_768
#: Those that a vector unit approximates otherwise than the library's scalar code does.
_APPROXIMATED: Final = frozenset(
    {
        functional.gelu,
        functional.sigmoid,
        functional.silu,
        functional.softplus,
        functional.tanh,
        torch.exp,
        torch.sigmoid,
        torch.tanh,
    }
)

_OnRows = Callable[[torch.Tensor], torch.Tensor]
#: Of rows and a bias, which some have.
_Product = Callable[[torch.Tensor, Any], torch.Tensor]

#: By kind of product and shape of weight: sizes that give canonical rows, largest first.
Sizes = Mapping[tuple[object, ...], tuple[int, ...]]

#: Terms of a sum that cancels differ in size by so many powers of two, so that each addition rounds.
_SPREAD: Final = 6


class RowArithmetic(TorchFunctionMode):
    """While it is entered, what is done to rows of tokens is done in blocks of sizes that give equal rows.

    Tokens are rows; those from `num_rows` on are padding up to `num_padded`, and their results are zero.
    """

    num_rows = 0
    num_padded = 0

    def __init__(self, sizes: Sizes) -> None:
        """`sizes` are those that were found before with the same weights."""
        super().__init__()
        self.sizes = dict(sizes)

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Take over what depends on the number of rows; torch calls this for each of its functions."""
        del types
        options = dict(kwargs or {})
        if func is functional.linear:
            weight, bias = args[1], (*args[2:], options.get("bias"))[0]
            return self._by_rows("linear", args[0], weight.T, bias, lambda rows, bias: func(rows, weight, bias))
        if func is torch.addmm:
            added, rows, weight = args
            return self._by_rows("addmm", rows, weight, added, lambda rows, bias: func(bias, rows, weight, **options))
        if func in {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__} and args[1].ndim == 2:
            return self._by_rows("matmul", args[0], args[1], None, lambda rows, _: func(rows, *args[1:], **options))
        if func in _APPROXIMATED:
            return _by_elements(args[0], lambda rows: func(rows, *args[1:], **options))
        return func(*args, **options)

    def _by_rows(
        self, kind: str, values: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor | None, product: _Product
    ) -> torch.Tensor:
        # Rows that are laid out otherwise are added up otherwise, too.
        rows = values.reshape(-1, values.shape[-1]).contiguous()
        num_rows = self.num_rows if len(rows) == self.num_padded else len(rows)
        if num_rows > self.num_rows:
            # Not a row per token.
            return product(values, bias)
        key = (kind, bias is not None, columns.shape, columns.stride(), columns.dtype)
        if key not in self.sizes:
            # Of a sum that is all rounding, a bias would leave nothing.
            no_bias = None if bias is None else torch.zeros_like(bias)
            self.sizes[key] = equal_sizes(cancelling_rows(columns), lambda rows: product(rows, no_bias))
        parts, begin = [], 0
        for count, size in split(num_rows, self.sizes[key]):
            parts.append(_padded(rows[begin : begin + count], size, lambda block: product(block, bias)))
            begin += count
        if num_rows < len(rows):
            parts.append(parts[0].new_zeros(len(rows) - num_rows, parts[0].shape[-1]))
        result = parts[0] if len(parts) == 1 else torch.cat(parts)
        return result.view(*values.shape[:-1], -1)


def split(num_rows: int, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks: how many rows each holds, and the size that it is padded to.

    `sizes` are in falling order.
    """
    while num_rows:
        fitting = next((size for size in sizes if size <= num_rows), 0)
        above = next((size for size in reversed(sizes) if size > num_rows), 0)
        size = above if above and (not fitting or num_rows >= _FILLED * above) else fitting
        count = min(size, num_rows)
        yield count, size
        num_rows -= count


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits: unlike `==`, this tells zeros of different sign apart."""
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


def _by_elements(values: torch.Tensor, function: _OnRows) -> torch.Tensor:
    width = values.shape[-1]
    if values.numel() <= _ELEMENTS_OF_ONE_THREAD or values.device.type != "cpu":
        return function(values)
    most = _ELEMENTS_OF_ONE_THREAD // width // CANONICAL_ROWS * CANONICAL_ROWS
    parts = [function(part) for part in values.reshape(-1, width).split(most or 1)]
    return torch.cat(parts).view(values.shape)


def _padded(rows: torch.Tensor, size: int, product: _OnRows) -> torch.Tensor:
    missing = size - len(rows)
    return product(functional.pad(rows, (0, 0, 0, missing)))[: len(rows)] if missing else product(rows)


def cancelling_rows(columns: torch.Tensor) -> torch.Tensor:
    """Make 64 rows whose products with a weight, of shape (inputs, outputs), show in what order they were added up.

    Each has terms that cancel with one of its columns, the first and the last among them: without rounding that sum
    would be zero, so all of its bits tell how it was rounded.
    """
    num_inputs, num_outputs = columns.shape
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(0, num_outputs, max(_SIZES)).long().clamp(max=num_outputs - 1)
    # In no order, so that a column that several rows have is met at several places of a block.
    chosen = spread[torch.randperm(len(spread), generator=generator)]
    picked = columns[:, chosen.to(columns.device)].T.float().cpu()
    one, other = torch.randperm(num_inputs, generator=generator)[: num_inputs // 2 * 2].view(2, -1)
    powers = torch.randint(-_SPREAD, _SPREAD + 1, (len(picked), len(one)), generator=generator)
    rows = torch.zeros(picked.shape)
    rows[:, one] = torch.ldexp(picked[:, other], powers)
    rows[:, other] = -torch.ldexp(picked[:, one], powers)
    return rows.to(device=columns.device, dtype=columns.dtype)


def equal_sizes(rows: torch.Tensor, product: _OnRows) -> tuple[int, ...]:
    """Find the sizes whose rows are, bit for bit, those of canonical products; largest first.

    Raises ValueError when those depend on where in its block a row is.
    """

    def in_blocks(tried: torch.Tensor, size: int) -> torch.Tensor:
        return torch.cat([product(block) for block in tried.split(size)])

    canonical = in_blocks(rows, CANONICAL_ROWS)
    if not same_bits(in_blocks(rows.roll(1, 0), CANONICAL_ROWS).roll(-1, 0), canonical):
        raise ValueError("what a row gives depends on its place among others on this machine")
    return tuple(size for size in _SIZES if same_bits(in_blocks(rows, size), canonical))
