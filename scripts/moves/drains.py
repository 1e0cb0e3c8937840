"""Thirty running jobs leave a node, by an operator's wish and by a signal to its worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from scripts.bench_report import Report, Row
from scripts.moves.cluster import MovingCluster, Reader, moving_cluster
from scripts.waiting import wait_until
from sllm_tasks.client import calls
from sllm_tasks.cluster import GpuId
from sllm_tasks.jobs import JobStatus

_NUM_JOBS = 30
_PROMPT_TOKENS, _MAX_TOKENS, _CONTEXT = 64, 384, 512


def measure(folder: Path) -> Report:
    """Drain a node, then stop the other one's worker."""
    rows: list[Row] = []
    figures: dict[str, float] = {}
    with moving_cluster(folder, max_jobs=_NUM_JOBS, context=_CONTEXT) as cluster:
        for name, leave in {"drain": _drain, "sigterm": _terminate}.items():
            some_rows, some_figures = _empty(cluster, name, leave)
            rows += some_rows
            figures |= some_figures
        settings = cluster.settings.model_dump(mode="json", exclude={"home"})
    settings |= {"jobs": _NUM_JOBS, "prompt_tokens": _PROMPT_TOKENS, "max_tokens": _MAX_TOKENS}
    return Report(settings=settings, rows=rows, figures=figures)


def _empty(
    cluster: MovingCluster, name: str, leave: Callable[[MovingCluster, GpuId, ExitStack], None]
) -> tuple[list[Row], dict[str, float]]:
    jobs = [cluster.submit(prompt_tokens=_PROMPT_TOKENS, max_tokens=_MAX_TOKENS) for _ in range(_NUM_JOBS)]
    readers = [Reader(cluster.client, job) for job in jobs]
    for reader in readers:
        reader.wait_for(8)
    gpu = cluster.view(jobs[0]).gpu
    if gpu is None:
        raise SystemExit(f"{jobs[0].id} does not run")
    here = [job for job in jobs if cluster.view(job).gpu == gpu]
    began_s = time.monotonic()
    with ExitStack() as stack:
        leave(cluster, gpu, stack)
        wait_until(lambda: not cluster.live.jobs.of_gpu(gpu), f"{gpu} is empty")
        taken_s = time.monotonic() - began_s
        for reader in readers:
            reader.join()
    records = [job.refresh() for job in jobs]
    moves = cluster.client.run(calls.get_list("migrations"))
    ours = {job.id for job in here}
    pauses = tuple(each["pause_ms"] for each in moves if each["job_id"] in ours and each["pause_ms"] is not None)
    figures = {
        f"{name}_s": taken_s,
        f"{name}_jobs": len(here),
        f"{name}_moved": len(pauses),
        f"{name}_failed": sum(record.status is not JobStatus.SUCCEEDED for record in records),
        f"{name}_restarted": sum(record.attempt > 1 for record in records),
    }
    gaps = [max(reader.pause_s(index) for index in range(1, len(reader.came_s))) for reader in readers]
    rows = [
        Row(f"{name}: pause of a job that moved", "ms", pauses),
        Row(f"{name}: longest time between two tokens of a reader", "ms", tuple(1000 * gap for gap in gaps)),
    ]
    return rows, figures


def _drain(cluster: MovingCluster, gpu: GpuId, stack: ExitStack) -> None:
    cluster.client.run(calls.drain_node(gpu.node))
    stack.callback(lambda: cluster.client.run(calls.undrain_node(gpu.node)))


def _terminate(cluster: MovingCluster, gpu: GpuId, _: ExitStack) -> None:
    pid = cluster.cluster.pid(f"worker-{gpu}")
    if pid is None:
        raise SystemExit(f"the worker of {gpu} is down")
    os.kill(pid, signal.SIGTERM)
