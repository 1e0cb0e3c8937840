"""`sllm ckpt import` and `convert`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loaders.commands.failures import reported
from loaders.commands.interrupts import interruptible
from loaders.commands.progress import Bar
from loaders.format.manifest import Manifest
from loaders.remote.importing import Conversion, import_checkpoint
from loaders.writer.convert import convert

#: A JSON object for the command line to show.
Record = Mapping[str, Any]


def run_import(source: str, destination: Path, num_partitions: int, num_threads: int, *, pack: bool) -> Record:
    """Make a checkpoint of our format from a URL or a path."""
    conversion = Conversion(num_partitions=num_partitions, pack=pack, num_threads=num_threads)
    started_s = time.monotonic()
    with reported(), interruptible() as cancel, Bar() as bar:
        manifest = import_checkpoint(source, destination, conversion=conversion, on_progress=bar.update, cancel=cancel)
    return _record(destination, manifest, time.monotonic() - started_s)


def run_convert(source: Path, destination: Path, num_partitions: int, num_threads: int, *, pack: bool) -> Record:
    """Convert a directory with .safetensors files."""
    started_s = time.monotonic()
    with reported(), interruptible() as cancel, Bar() as bar:
        manifest = convert(
            source,
            destination,
            num_partitions=num_partitions,
            pack=pack,
            num_threads=num_threads,
            on_progress=lambda done, total: bar.update("convert", done, total),
            cancel=cancel,
        )
    return _record(destination, manifest, time.monotonic() - started_s)


def _record(destination: Path, manifest: Manifest, seconds: float) -> Record:
    return {
        "path": str(destination),
        "digest": manifest.digest,
        "source": manifest.source,
        "num_bytes": manifest.num_bytes,
        "num_partitions": len(manifest.content.partitions),
        "seconds": round(seconds, 3),
        "gigabytes_per_s": round(manifest.num_bytes / 1e9 / seconds, 3),
    }
