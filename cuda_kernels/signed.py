"""Unsigned 64-bit arithmetic with torch, which has the signed one only: products and sums wrap around the same way."""

from __future__ import annotations

import torch


def signed(value: int) -> int:
    """Return the number that has the same 64 bits in two's complement."""
    return (value ^ (1 << 63)) - (1 << 63)


def shift_right(values: torch.Tensor, count: int) -> torch.Tensor:
    """Shift in zeros: an arithmetic shift, with the copies of the sign masked off."""
    return (values >> count) & ((1 << (64 - count)) - 1)
