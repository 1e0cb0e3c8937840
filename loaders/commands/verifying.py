"""`sllm ckpt verify`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loaders.commands.failures import reported
from loaders.commands.progress import Bar
from loaders.format.geometry import TENSOR_INDEX
from loaders.format.verify import verify
from loaders.source import open_source


def run_verify(path: Path) -> Mapping[str, Any]:
    """Compare every byte with its digests; of .safetensors files, which have none, only the headers are checked."""
    with reported(), Bar() as bar:
        if (path / TENSOR_INDEX).is_file():
            manifest = verify(path, on_progress=lambda done, total: bar.update("verify", done, total))
            return {"path": str(path), "checked": "bytes", "digest": manifest.digest, "num_bytes": manifest.num_bytes}
        with open_source(path) as source:
            return {"path": str(path), "checked": "headers", "digest": None, "num_bytes": source.plan.num_bytes}
