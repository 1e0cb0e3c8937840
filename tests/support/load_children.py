"""What other processes do in tests that load a checkpoint: each function is the main program of one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from loaders.checkpoint import load
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.lease import ContentLease
from loaders.memory.pool import Pool
from loaders.reading.pipeline import ReadOptions

NUM_CHUNKS = 4

# Children are forked from a server that has imported all of this, in milliseconds, and never from one with threads.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def start(target: Callable[..., None], *arguments: object) -> BaseProcess:
    """Run a function of this module in a process of its own."""
    child = _context.Process(target=target, args=arguments, daemon=True)
    child.start()
    return child


def answer_queue() -> Any:  # multiprocessing's queues have no useful type
    """A queue that children can answer through."""
    return _context.Queue()


def open_pool(folder: Path) -> Pool:
    """The pool that all children use."""
    return Pool.open(folder, NUM_CHUNKS * CHUNK_BYTES)


def sum_of_bits(tensors: Mapping[str, torch.Tensor]) -> int:
    """The same for the same bits, however many threads add them up."""
    return sum(int(tensor.view(torch.int32).sum(dtype=torch.int64)) for tensor in tensors.values())


def load_and_tell(path: Path, folder: Path, answers: Any) -> None:
    """Load, and answer with the bytes that were read and `sum_of_bits`."""
    torch.set_num_threads(1)
    with open_pool(folder) as pool, load(path, pool=pool, options=ReadOptions(page_cache=False)) as loaded:
        answers.put((loaded.report.read_bytes, sum_of_bits(loaded.tensors)))


def load_and_die(path: Path, folder: Path, kill_at: int) -> None:
    """Load, and be killed at a step: before or after a chunk is claimed, read, or said to be filled."""
    lock, step = threading.Lock(), 0

    def reached() -> None:
        nonlocal step
        with lock:
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            step += 1

    def dying(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(lease: ContentLease, *arguments: int) -> Any:
            reached()
            answer = method(lease, *arguments)
            reached()
            return answer

        return call

    for name in ("claim", "chunk", "filled"):
        setattr(ContentLease, name, dying(getattr(ContentLease, name)))
    with open_pool(folder) as pool, load(path, pool=pool, options=ReadOptions(page_cache=False)):
        pass
