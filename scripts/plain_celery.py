"""The peer of `bench_dispatch`: a Celery application with one task that notes when it was sent and when it began."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from sllm_tasks.app import celery_settings

app = Celery("plain", broker=os.environ["BENCH_BROKER"], set_as_current=False)
app.conf.update(celery_settings())
# Open for as long as the process lives.
_MARKS = Path(os.environ["BENCH_MARKS"]).open("a", buffering=1, encoding="ascii")  # noqa: SIM115


@app.task(name="plain")  # type: ignore[untyped-decorator] # no stubs
def plain(sent_ns: int) -> None:
    """Note the two moments."""
    _MARKS.write(f"{sent_ns} {time.monotonic_ns()}\n")
