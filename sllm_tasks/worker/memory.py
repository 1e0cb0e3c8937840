"""The node's DRAM pool as its worker uses it: touched in the background, and done without where there is none."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from loaders import checkpoint
from loaders.checkpoint import LoadedCheckpoint
from loaders.devices.pinning import pin_pool
from loaders.errors import LoaderError, PoolBusyError
from loaders.memory.pool import Pool
from loaders.memory.pool_folder import remove_pool
from loaders.reading.pipeline import Cancel, Progress
from loaders.remote.stream import load_remote
from sllm_tasks.config import Settings
from sllm_tasks.worker.checkpoints import OpenedCheckpoint

logger = logging.getLogger(__name__)

#: Touching memory must not keep anybody from starting or decoding.
_IDLE_NICENESS = 19


class NodeMemory:
    """Loads checkpoints through the pool; without room for one, into memory of their own."""

    def __init__(self, settings: Settings, device: str) -> None:
        self._folder = settings.pool_folder
        self._capacity_bytes = settings.pool_capacity_bytes
        self._device = device
        self._pool: Pool | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._prepare, name="prepare-pool", daemon=True)

    def start(self) -> None:
        """Open the pool, and make its pages in the background."""
        if not self._capacity_bytes:
            return
        try:
            self._pool = Pool.open(self._folder, self._capacity_bytes)
        except (LoaderError, ValueError) as error:
            logger.warning("no DRAM tier: %s", error)
            return
        self._thread.start()

    def stop(self) -> None:
        """Leave the pool; the last one who leaves gives its memory back to the machine."""
        self._stopping.set()
        if self._pool is None:
            return
        self._thread.join()
        self._pool.close()
        with suppress(PoolBusyError):
            remove_pool(self._folder)

    def load(
        self,
        opened: OpenedCheckpoint,
        devices: tuple[str, ...],
        *,
        with_model: bool,
        on_progress: Callable[[Progress], None],
        cancel: Cancel,
    ) -> LoadedCheckpoint:
        """Load a checkpoint, chunk by chunk as it arrives; see `loaders.checkpoint.load`."""
        load: Callable[..., LoadedCheckpoint] = (
            partial(checkpoint.load, opened.path) if opened.remote is None else partial(load_remote, opened.remote)
        )
        return load(
            devices,
            pool=self._pool,
            with_model=with_model,
            templates=opened.templates,
            on_progress=on_progress,
            cancel=cancel,
        )

    def _prepare(self) -> None:
        pool = self._pool
        if pool is None:
            return
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _IDLE_NICENESS)
        try:
            pool.prepare(self._stopping)
            if self._device.startswith("cuda"):
                pin_pool(pool, self._device, self._stopping)
        except LoaderError as error:
            logger.warning("the DRAM tier is slower than it could be: %s", error)
        else:
            logger.info("pool of %d bytes is ready: %s", pool.capacity_bytes, pool.page_kind)
