"""`sllm ckpt inspect`: what is in a checkpoint, here or behind a URL, without reading a weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from loaders.commands.failures import reported
from loaders.directory import CONFIG, CheckpointDirectory
from loaders.format.dtypes import ITEMSIZE
from loaders.reading.plan import LoadPlan, StoredTensor
from loaders.remote.source import open_remote
from loaders.remote.url import is_url, parse_url
from loaders.source import Source, open_source


def run_inspect(source: str) -> Mapping[str, Any]:
    """Describe a checkpoint and list its tensors."""
    with reported(), _opened(source) as opened:
        plan = opened.plan
        dtypes = Counter[str]()
        for tensor in set(plan.tensors.values()):
            dtypes[tensor.dtype] += _num_bytes(tensor)
        return {
            "source": str(parse_url(source)) if is_url(source) else source,
            "format": "sllm-checkpoint" if opened.is_converted else "safetensors",
            "digest": plan.key if opened.is_converted else None,
            "architecture": None if opened.directory is None else _architecture(opened.directory),
            "dtypes": dict(dtypes),
            "num_bytes": plan.num_bytes,
            "num_partitions": len(plan.files),
            "num_tensors": len(plan.tensors),
            "tensors": [_tensor(name, plan) for name in plan.tensors],
        }


@contextmanager
def _opened(source: str) -> Iterator[Source]:
    if is_url(source):
        with open_remote(parse_url(source)) as remote:
            yield remote.source
    else:
        with open_source(Path(source)) as opened:
            yield opened


def _architecture(directory: CheckpointDirectory) -> str | None:
    """What config.json calls it: no library is asked, so this says nothing of whether it can be served."""
    text = directory.read_text(CONFIG)
    if text is None:
        return None
    config = directory.parse_json(CONFIG, text)
    named = config.get("architectures")
    return str(named[0]) if isinstance(named, list) and named else str(config.get("model_type"))


def _tensor(name: str, plan: LoadPlan) -> Mapping[str, Any]:
    tensor = plan.tensors[name]
    return {
        "name": name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "num_bytes": _num_bytes(tensor),
        "layout": "raw" if tensor.packing is None else "packed",
    }


def _num_bytes(tensor: StoredTensor) -> int:
    return prod(tensor.shape) * ITEMSIZE[tensor.dtype]
