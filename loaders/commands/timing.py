"""`sllm ckpt bench`: how fast a checkpoint is loaded on this machine, by the loader of the product."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch

from loaders.checkpoint import LoadedCheckpoint, load
from loaders.commands.failures import reported
from loaders.commands.progress import Bar
from loaders.devices.readiness import make_ready
from loaders.errors import PoolBusyError
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.pool import Pool
from loaders.memory.records import ContentKey
from loaders.reading.pipeline import ReadOptions
from loaders.source import open_source

#: Where the pools of nodes are, too.
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a folder of our own is made there
_PAGE_BYTES = 4096
_LEASE_S = 10.0


def run_bench(path: Path, device: str, num_rounds: int) -> Mapping[str, Any]:
    """Time loads from the disk, never from its page cache, and from a pool that has the checkpoint already.

    The pool is this call's own and is made, pages and all, before the clock starts; so is what a worker has ready on a
    GPU. A load ends when every page of every tensor is there.
    """
    _check_device(device)
    with reported(), Bar() as bar, tempfile.TemporaryDirectory(prefix="sllm-bench-", dir=_SHARED_MEMORY) as folder:
        with open_source(path) as source:
            key, image_bytes = ContentKey(source.plan.key), source.plan.image_bytes
        with Pool.open(Path(folder), max(image_bytes, CHUNK_BYTES)) as pool:
            pool.prepare()
            make_ready(device, pool)
            rows: list[Mapping[str, Any]] = []
            for number in range(num_rounds):
                rows += [_timed(path, device, pool), _timed(path, device, pool)]
                _free(pool, key)
                bar.update("rounds", number + 1, num_rounds)
            return {"path": str(path), "device": device, "page_kind": pool.page_kind.value, "loads": rows}


def _check_device(name: str) -> None:
    try:
        torch.empty(1, device=name)
    except (AssertionError, RuntimeError) as error:
        message = f"{name} is no device of this machine: {str(error).partition(chr(10))[0]}"
        raise click.BadParameter(message, param_hint="--device") from error


def _timed(path: Path, device: str, pool: Pool) -> Mapping[str, Any]:
    started_s = time.monotonic()
    with load(path, device, pool=pool, options=ReadOptions(page_cache=False)) as loaded:
        _touch(loaded)
        seconds = time.monotonic() - started_s
        report = loaded.report
    return {
        "loaded_from": report.loaded_from.value,
        "num_bytes": report.num_bytes,
        "seconds": round(seconds, 4),
        "gigabytes_per_s": round(report.num_bytes / 1e9 / seconds, 3),
    }


def _touch(loaded: LoadedCheckpoint) -> None:
    """Read a byte of every page, or wait for the device."""
    for storage in {tensor.untyped_storage() for tensor in loaded.tensors.values()}:
        if storage.device.type == "cpu":
            torch.empty(0, dtype=torch.uint8).set_(storage)[::_PAGE_BYTES].sum()
    for device in {tensor.device for tensor in loaded.tensors.values() if tensor.is_cuda}:
        torch.cuda.synchronize(device)


def _free(pool: Pool, key: ContentKey) -> None:
    """Forget the content; its lease goes back a moment after the last tensor has died."""
    deadline_s = time.monotonic() + _LEASE_S
    while True:
        try:
            pool.free(key)
        except PoolBusyError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.01)
        else:
            return
