"""Running things at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Result = TypeVar("_Result")


def run_together(functions: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Call each function in a thread of its own, all released at once; results in the order given."""
    barrier = threading.Barrier(len(functions))

    def _call(function: Callable[[], _Result]) -> _Result:
        barrier.wait(timeout=10)
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        futures = [pool.submit(_call, function) for function in functions]
        return [future.result(timeout=60) for future in futures]
