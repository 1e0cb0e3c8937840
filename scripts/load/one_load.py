"""One load in a fresh process: `python -m scripts.load.one_load REQUEST`; prints the times as JSON.

REQUEST is JSON: contestant, files, how much of the free memory to touch and free before the clock (0: as found), and
what to have in the node's pool and in the page cache.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from loaders.memory.mapping import Mapping
from loaders.memory.pool import Pool
from loaders.prefetch import prefetch
from scripts.load.contestants import CONTESTANTS, Files, Tensors

_PAGE = 4096
#: Left alone, so that nothing else is driven out.
_SPARED_BYTES = 512 << 20


_PATHS = ("directory", "converted", "packed", "pickled", "tensorized", "pool")


def main() -> int:
    """Load, touch, report."""
    request = json.loads(sys.argv[1])
    values: dict[str, Any] = request["files"]
    files = Files(**{**values, **{name: Path(values[name]) for name in _PATHS}})
    _wake(files.device)
    load = CONTESTANTS[request["contestant"]](files)
    _back_memory(request["backed_bytes"])
    _cache(request["cached"])
    _pool(request["pooled"], files)
    # As in a worker that waits for work; else a load goes through all that its imports have made, or not, by chance.
    gc.collect()
    gc.freeze()
    started_s = time.monotonic()
    tensors = load()
    returned_s = time.monotonic()
    _make_resident(tensors, files.device)
    resident_s = time.monotonic()
    num_bytes = sum(tensor.nbytes for tensor in {id(tensor): tensor for tensor in tensors.values()}.values())
    answer = {
        "returned_s": returned_s - started_s,
        "resident_s": resident_s - started_s,
        "num_bytes": num_bytes,
        "checksum": _touch(tensors),
    }
    print(json.dumps(answer))
    return 0


def _wake(device: str) -> None:
    """Make the driver's context, and have it load what adds up numbers: no load is to pay for that."""
    if device != "cpu":
        _touch({"": torch.zeros(_PAGE, device=device)})


def _make_resident(tensors: Tensors, device: str) -> None:
    """On a CPU the bytes may still be in a file; on a GPU they are where they belong when it is done."""
    if device == "cpu":
        _touch(tensors)
    else:
        torch.cuda.synchronize(device)


def _back_memory(num_bytes: int) -> None:
    """Touch memory and free it, so that the host of a virtual machine has it ready for the load.

    The kernel hands out first what was freed last. In huge pages where it can, as most loaders use them; small ones are
    cut from those.
    """
    num_bytes = min(num_bytes, _free_bytes() - _SPARED_BYTES)
    if num_bytes > 0:
        with Mapping.anonymous(num_bytes) as memory:
            memory.populate(0, memory.num_bytes)


def _pool(path: str, files: Files) -> None:
    """Read a checkpoint into the node's pool once more: a host may have taken back what nobody has touched for long."""
    if path:
        with Pool.open(files.pool, files.pool_bytes) as pool:
            for content in pool.contents():
                pool.free(content.key)
            prefetch(Path(path), pool)


def _cache(paths: list[str]) -> None:
    """Read files, behind the touching of memory, which drives them out of the page cache."""
    for path in paths:
        with Path(path).open("rb") as file:
            while file.read(16 << 20):
                pass


def _free_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemFree:"):
            return int(line.split()[1]) * 1024
    return 0


def _touch(tensors: Tensors) -> int:
    """Read a byte of every page of every tensor, so that all of it is in memory; returns what they add up to."""
    total = 0
    for tensor in tensors.values():
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        total += int(flat[::_PAGE].to(torch.int64).sum())
    return total


if __name__ == "__main__":
    sys.exit(main())
