"""Bring a checkpoint into a node's pool before anybody waits for it; needs neither torch nor a device."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from loaders.errors import PoolSpaceError
from loaders.memory.pool import Pool
from loaders.memory.ranking import LoadClass
from loaders.memory.records import ContentKey
from loaders.reading.pipeline import Cancel, LoadControl, Pipeline, Progress, ReadOptions
from loaders.source import open_source


class _NoDevice:
    """Chunks stay where they are."""

    def accept(self, index: int, memory: memoryview) -> None:
        del index, memory

    def poll(self) -> None:
        pass


def prefetch(
    path: Path,
    pool: Pool,
    *,
    keep: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: Cancel | None = None,
) -> Progress:
    """Read what the pool lacks of a checkpoint; loads that somebody waits for go first.

    With `keep`, it is not evicted until it is unpinned or freed. Returns how it went.

    Raises:
        PoolSpaceError: It does not fit beside what is in use or kept.
        LoaderError: The checkpoint is unsound, a disk failed, or the prefetch was canceled.

    """
    with open_source(path) as source:
        plan = source.plan
        key = ContentKey(plan.key)
        lease = pool.lease(key, plan.image_bytes)
        if lease is None:
            usage = pool.usage
            free_bytes = usage.free_bytes + usage.evictable_bytes
            message = f"{path}: needs {plan.image_bytes} bytes of the pool, {free_bytes} can be had"
            raise PoolSpaceError(message, needed_bytes=plan.image_bytes, free_bytes=free_bytes)
        queue = partial(pool.load_queue.join, f"prefetch-{plan.key[:12]}", key, LoadClass.PREFETCH, plan.num_bytes)
        with lease:
            control = LoadControl(on_progress=on_progress, cancel=cancel, join_queue=queue)
            # A load that somebody waits for waits for no more than what is being read.
            options = ReadOptions(chunks_per_read=1)
            done = Pipeline(plan, lease, _NoDevice(), options=options, control=control).run()
            if keep:
                pool.pin(key)
    return done
