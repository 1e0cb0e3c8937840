"""Compile functions for the CPU with numba, or find out that this cannot be: then their NumPy twins do the work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

# numba looks at each argument of a first call with this at hand: 7 to 13 ms of importing in the middle of a load.
import numpy.ma  # noqa: F401 - for numba

#: What is compiled takes and returns whatever its signature says; typed wrappers call it.
Compiled: TypeAlias = Callable[..., Any]
#: Of an argument or result: a number, `T[]` for an array that is only read, `T[]!` for one that is written.
Kind = Literal["uint8", "uint64", "int64", "uint8[]", "uint8[]!", "uint16[]", "uint16[]!", "uint64[]", "uint64[]!"]


def compile_for_cpu(function: Callable[..., object], result: Kind, arguments: Sequence[Kind]) -> Compiled | None:
    """Compile for one signature, at once; the result runs without the GIL. None if there is no numba that works."""
    try:
        import numba  # noqa: PLC0415 - it may be missing, or too old for the installed NumPy
    except ImportError:
        return None

    def numba_type(kind: Kind) -> object:
        element, bracket, written = kind.partition("[]")
        found: Any = getattr(numba.types, element)
        return numba.types.Array(found, 1, "C", readonly=not written) if bracket else found

    signature = numba_type(result)(*map(numba_type, arguments))  # type: ignore[operator] # a type of numba is callable
    try:
        return numba.njit(signature, nogil=True, cache=True)(function)  # type: ignore[no-any-return] # no stubs
    except Exception:  # noqa: BLE001 - a compiler that does not work at all says so once more
        # No folder to keep compiled code in, no room there, or what a crash has left there: numba reads it as it is.
        return numba.njit(signature, nogil=True)(function)  # type: ignore[no-any-return]
