"""Waiting for what comes by itself, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

from sllm_tasks.livestate import LiveState

_PERIOD_S = 0.005


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    """Return as soon as a condition holds; ends the script, naming what was waited for, if it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(_PERIOD_S)


def wait_for_reports(live: LiveState) -> None:
    """Return when the ledger has everything that was reported so far."""
    wait_until(lambda: not live.reports.read(limit=1, block_ms=1), "what was reported in the ledger")
