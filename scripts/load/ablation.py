"""What each part of the loader gains: the paper's Figure 7, from the switches of the real one."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import torch
from safetensors import safe_open

from loaders import checkpoint
from loaders.memory.pool import Pool
from loaders.reading.pipeline import DEFAULT_THREADS, ReadOptions
from loaders.rehearsal import Rehearsal
from loaders.templates import Templates
from scripts.load.contestants import Files
from scripts.load.rounds import State, bring_about


def ablation(files: Files, pool: Pool, num_rounds: int) -> dict[str, list[float]]:
    """Load with one more part each time; seconds per load in this process, from a disk that nothing has cached."""
    one = ReadOptions(num_threads=1, chunks_per_read=1, direct=False, page_cache=False, verify=False)
    direct = replace(one, direct=True)
    threads = replace(direct, num_threads=DEFAULT_THREADS)
    digests = replace(threads, verify=True)
    product = ReadOptions(page_cache=False)
    steps: dict[str, Callable[[], object]] = {
        "tensor by tensor": lambda: _tensor_by_tensor(files),
        "+ bulk": lambda: _load(files, None, one),
        "+ direct": lambda: _load(files, None, direct),
        "+ threads": lambda: _load(files, None, threads),
        "+ resident pool": lambda: _load(files, pool, threads),
        "+ digests, in the pipeline": lambda: _load(files, pool, digests),
        "+ several chunks a read": lambda: _load(files, pool, product),
        "a whole model, a chunk a read": lambda: _load(files, pool, digests, with_model=True),
        "a whole model, several chunks a read": lambda: _load(files, pool, product, with_model=True),
    }
    Rehearsal(Templates()).look([files.converted])
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(num_rounds):
        for name, step in steps.items():
            for contestant in ("safetensors", "ours"):
                bring_about(State.FOUND, contestant, files, pool)
            started_s = time.monotonic()
            step()
            samples[name].append(time.monotonic() - started_s)
            # Models refer to themselves in circles, and hold what they have of the pool.
            gc.collect()
    return samples


def _tensor_by_tensor(files: Files) -> None:
    with safe_open(files.safetensors, framework="pt", device=files.device) as opened:
        for name in opened.keys():  # noqa: SIM118 - not a dict
            opened.get_tensor(name).clone()


def _load(files: Files, pool: Pool | None, options: ReadOptions, *, with_model: bool = False) -> None:
    with checkpoint.load(files.converted, files.device, pool=pool, options=options, with_model=with_model):
        if files.device != "cpu":
            torch.cuda.synchronize(files.device)
