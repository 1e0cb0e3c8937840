"""Arithmetic whose rows do not depend on each other, nor on how many there are.

A library chooses another kernel, and so another order of additions, for another number of rows. Here a row's result is
*defined* as what a product of 8 rows gives. Other sizes are used only where they gave the same bits with the very
shape of that weight, which is tried when a shape is first seen.

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
#: Other sizes that are tried, largest first. No more than 64 rows go through the model together.
_OTHER_SIZES: Final = (64, 16, 4, 2, 1)
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


class RowArithmetic(TorchFunctionMode):
    """While it is entered, what is done to rows of tokens is done in blocks of sizes that give equal rows.

    Tokens are rows; those from `num_rows` on are padding up to `num_padded`, and their results are zero.
    """

    num_rows = 0
    num_padded = 0

    def __init__(self) -> None:
        super().__init__()
        # By kind of product and shape of weight: sizes that give canonical rows, largest first.
        self._sizes: dict[tuple[object, ...], tuple[int, ...]] = {}

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Take over what depends on the number of rows; torch calls this for each of its functions."""
        del types
        options = dict(kwargs or {})
        if func is functional.linear:
            has_bias = (*args[2:], options.get("bias"))[0] is not None
            kind = "linear with bias" if has_bias else "linear"
            return self._by_rows(kind, args[0], args[1], lambda rows: func(rows, *args[1:], **options))
        if func is torch.addmm:
            return self._by_rows("addmm", args[1], args[2], lambda rows: func(args[0], rows, *args[2:], **options))
        if func in {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__} and args[1].ndim == 2:
            return self._by_rows("matmul", args[0], args[1], lambda rows: func(rows, *args[1:], **options))
        if func in _APPROXIMATED:
            return _by_elements(args[0], lambda rows: func(rows, *args[1:], **options))
        return func(*args, **options)

    def _by_rows(self, kind: str, values: torch.Tensor, weight: torch.Tensor, product: _OnRows) -> torch.Tensor:
        rows = values.reshape(-1, values.shape[-1])
        num_rows = self.num_rows if len(rows) == self.num_padded else len(rows)
        if num_rows > self.num_rows:
            # Not a row per token.
            return product(values)
        key = (kind, weight.shape, weight.dtype)
        if key not in self._sizes:
            self._sizes[key] = _equal_sizes(rows, product)
        parts, begin = [], 0
        for count, size in split(num_rows, self._sizes[key]):
            parts.append(_padded(rows[begin : begin + count], size, product))
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


def _equal_sizes(like: torch.Tensor, product: _OnRows) -> tuple[int, ...]:
    """Find the sizes whose rows are, bit for bit, those of canonical products."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(max(_OTHER_SIZES), like.shape[-1], generator=generator)
    # Laid out anew, since the first block of a tensor may be better aligned than others.
    rows = noise.to(device=like.device, dtype=like.dtype)
    canonical = torch.cat([product(block) for block in rows.split(CANONICAL_ROWS)])

    def is_equal(size: int) -> bool:
        tried = rows[: max(size, CANONICAL_ROWS)]
        found = torch.cat([product(block) for block in tried.split(size)])
        return same_bits(found, canonical[: len(tried)])

    return tuple(sorted((CANONICAL_ROWS, *filter(is_equal, _OTHER_SIZES)), reverse=True))
