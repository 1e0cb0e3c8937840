"""A load on the CPU: where its bytes are, which memory they go to, and the tensors at the end."""

from __future__ import annotations

import time
from contextlib import ExitStack

from loaders.devices.cpu_image import CpuImage
from loaders.devices.loaded import Loaded, LoadedFrom, OnTensors
from loaders.errors import LoadCanceledError
from loaders.format.geometry import CHUNK_BYTES
from loaders.memory.lease import ContentLease
from loaders.memory.mapping import Mapping
from loaders.memory.pool import Pool
from loaders.memory.records import ContentKey
from loaders.memory.releasing import release_with
from loaders.reading.chunk_memory import ChunkMemory, PrivateMemory, allocate
from loaders.reading.mapped_files import are_cached, check_mapped, map_files
from loaders.reading.pipeline import LoadControl, Pipeline, Progress, ReadOptions
from loaders.reading.plan import LoadPlan


def load_on_cpu(
    plan: LoadPlan, pool: Pool | None, options: ReadOptions, control: LoadControl, on_tensors: OnTensors
) -> Loaded:
    """Make the tensors of a plan views of the pool, of the page cache, or of memory of their own."""
    if not plan.chunks:
        return _into_private_memory(plan, options, control, on_tensors)
    in_pool = pool is not None and _has(pool, plan)
    if not in_pool and options.page_cache and are_cached(plan):
        return _from_page_cache(plan, control, on_tensors)
    lease = None if pool is None else pool.lease(ContentKey(plan.key), plan.image_bytes)
    if lease is None:
        return _into_private_memory(plan, options, control, on_tensors)
    with ExitStack() as on_error:
        on_error.callback(lease.close)
        loaded = _into_pool(plan, lease, options, control, on_tensors)
        on_error.pop_all()
    return loaded


def _has(pool: Pool, plan: LoadPlan) -> bool:
    return any(content.key == plan.key and content.filled_bytes == content.num_bytes for content in pool.contents())


def _from_page_cache(plan: LoadPlan, control: LoadControl, on_tensors: OnTensors) -> Loaded:
    started_s = time.monotonic()
    mapping = map_files(plan)
    image = CpuImage(plan, mapping)
    on_tensors(image.tensors(), image.side_by_side)
    check_mapped(plan, mapping)
    if control.cancel is not None and control.cancel.is_set():
        raise LoadCanceledError("the load was canceled")
    for index in range(len(plan.chunks)):
        begin = index * CHUNK_BYTES
        image.accept(index, mapping.view[begin : begin + CHUNK_BYTES])
    image.finish()
    if control.on_progress is not None:
        seconds = time.monotonic() - started_s
        control.on_progress(
            Progress(done_bytes=plan.num_bytes, total_bytes=plan.num_bytes, seconds=seconds, read_bytes=0)
        )
    return Loaded(loaded_from=LoadedFrom.PAGE_CACHE, read_bytes=0)


def _into_private_memory(plan: LoadPlan, options: ReadOptions, control: LoadControl, on_tensors: OnTensors) -> Loaded:
    mapping = allocate(max(plan.image_bytes, 1))
    return _fill(plan, mapping, PrivateMemory(mapping, CHUNK_BYTES), options, control, on_tensors)


def _into_pool(
    plan: LoadPlan, lease: ContentLease, options: ReadOptions, control: LoadControl, on_tensors: OnTensors
) -> Loaded:
    """Fill what is missing; the lease is given back when the last tensor has died."""
    mapping = lease.map_image()
    loaded = _fill(plan, mapping, lease, options, control, on_tensors)
    release_with(mapping, lease)
    return loaded


def _fill(
    plan: LoadPlan,
    mapping: Mapping,
    memory: ChunkMemory,
    options: ReadOptions,
    control: LoadControl,
    on_tensors: OnTensors,
) -> Loaded:
    image = CpuImage(plan, mapping)
    pipeline = Pipeline(plan, memory, image, options=options, control=control)
    done = pipeline.run(lambda: on_tensors(image.tensors(), image.side_by_side))
    image.finish()
    return Loaded(loaded_from=LoadedFrom.DISK if done.read_bytes else LoadedFrom.POOL, read_bytes=done.read_bytes)
