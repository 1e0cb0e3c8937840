"""What a worker tells the ledger of a load."""

from __future__ import annotations

import time

from loaders.checkpoint import LoadReport
from loaders.devices.loaded import LoadedFrom
from sllm_tasks.cluster import GpuId, Replica, ReplicaState
from sllm_tasks.livestate import LiveState
from sllm_tasks.worker.load_progress import LoadProgress

_REPLICA = Replica(
    id="replica_1",
    model="m",
    checkpoint="c",
    gpus=(GpuId("node0", 0),),
    state=ReplicaState.LOADING,
    bytes_per_gpu=1,
    max_jobs=1,
    engine="steploop",
    context=64,
)


def test_a_load_lasts_until_its_replica_takes_jobs_not_until_its_bytes_are_there(live: LiveState) -> None:
    progress = LoadProgress(live, _REPLICA)
    progress.loaded(LoadReport(loaded_from=LoadedFrom.PAGE_CACHE, num_bytes=100, read_bytes=0, seconds=0.001))
    time.sleep(0.05)
    progress.ready()
    (report,) = live.reports.read(limit=10, block_ms=1)
    assert report.kind == "load_measured"
    assert report.data["seconds"] >= 0.05
    # The router took it for a load from the SSD.
    assert report.data["tier"] == "ssd"


def test_freeing_the_memory_is_part_of_a_load(live: LiveState) -> None:
    progress = LoadProgress(live, _REPLICA, freeing_s=7.0)
    progress.loaded(LoadReport(loaded_from=LoadedFrom.POOL, num_bytes=100, read_bytes=0, seconds=0.001))
    progress.ready()
    (report,) = live.reports.read(limit=10, block_ms=1)
    assert 7.0 <= report.data["seconds"] < 8.0


def test_an_engine_that_reads_no_checkpoint_teaches_nothing_about_loads(live: LiveState) -> None:
    LoadProgress(live, _REPLICA).ready()
    assert live.reports.read(limit=10, block_ms=1) == []
