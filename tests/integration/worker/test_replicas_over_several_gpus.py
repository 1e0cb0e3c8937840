"""Two workers of one node and replicas over both of their gpus: who frees what, when, and who finds out how."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from loaders.format.geometry import MODEL_DIRECTORY
from sllm_tasks.cluster import Gpu, GpuId, ReplicaState
from sllm_tasks.config import Settings
from sllm_tasks.engines.base import DeviceLostError
from sllm_tasks.engines.instant import InstantEngine
from sllm_tasks.errors import OutOfMemoryError, StaleError
from sllm_tasks.jobs import JobStatus
from sllm_tasks.livestate import LiveState
from sllm_tasks.livestate.router import Applied, NewReplica
from sllm_tasks.worker.checkpoints import Checkpoints
from sllm_tasks.worker.engine_loop import EngineLoop
from sllm_tasks.worker.memory import NodeMemory
from sllm_tasks.worker.neighbours import Neighbours
from sllm_tasks.worker.replicas import LoadedReplica, ReplicaTable
from tests.integration.livestate.world import World, job_spec, model_info

FIRST, SECOND = GpuId("node0", 0), GpuId("node0", 1)
#: Of a gpu; a replica in these tests takes all of it.
_ROOM = 100


class Worker:
    """What of a worker has to do with replicas."""

    def __init__(self, gpu: GpuId, live: LiveState, node_home: Path, workers: dict[GpuId, Worker]) -> None:
        self.gpu = Gpu(id=gpu, worker_id=f"worker_{gpu.index}", device=f"cpu:{gpu.index}", capacity_bytes=_ROOM)
        self.asked: list[str] = []
        self._unloads: list[threading.Thread] = []
        self._loop = EngineLoop(None, live.now_ms)  # type: ignore[arg-type] # nothing is decoded here
        neighbours = Neighbours(live, gpu, self.gpu.device, lambda leader, id_: workers[leader].be_asked(id_))
        memory = NodeMemory(Settings(home=node_home, node="node0", pool_bytes=0), self.gpu.device)
        checkpoints = Checkpoints("node0", node_home, "", lambda _: {}, "cpu")
        self.replicas = ReplicaTable(live, self._loop, checkpoints, memory, neighbours)
        self._stopping = threading.Event()
        self._janitor = threading.Thread(target=self.replicas.free_unwanted, args=(gpu, self._stopping))

    def be_asked(self, replica_id: str) -> None:
        """What comes of a message to unload a replica."""
        self.asked.append(replica_id)
        thread = threading.Thread(target=self.replicas.unload, args=(replica_id,))
        self._unloads.append(thread)
        thread.start()

    def start(self) -> None:
        self._loop.start()
        self._janitor.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in (self._janitor, *self._unloads):
            thread.join()
        self._loop.stop()


class WatchfulEngine(InstantEngine):
    """Notes where it was loaded, and what was still closed there at that moment."""

    loads: list[tuple[tuple[str, ...], list[str]]]
    closed: Callable[[], list[str]]
    #: Loads wait for it.
    may_load: threading.Event
    #: The newest load has freed what it had to, and waits or goes on.
    began: threading.Event

    def load(self, *args: Any, **named: Any) -> None:
        self.began.set()
        self.may_load.wait(60)
        self.loads.append((args[1], self.closed()))
        super().load(*args, **named)


@pytest.fixture
def engine(live: LiveState, monkeypatch: pytest.MonkeyPatch) -> type[WatchfulEngine]:
    def closed() -> list[str]:
        return sorted({closed.id for gpu in (FIRST, SECOND) for closed in live.fleet.closed_replicas(gpu)})

    may_load = threading.Event()
    may_load.set()
    members = {"loads": [], "closed": staticmethod(closed), "may_load": may_load, "began": threading.Event()}
    watchful = type("Watchful", (WatchfulEngine,), members)
    monkeypatch.setattr("sllm_tasks.worker.replicas.create_engine", lambda name: watchful())
    return watchful


@pytest.fixture
def workers(live: LiveState, tmp_path: Path, engine: type[WatchfulEngine]) -> Iterator[dict[GpuId, Worker]]:
    tokenizer = tmp_path / "c" / MODEL_DIRECTORY / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True)
    Tokenizer(WordLevel({"a": 0}, unk_token="a")).save(str(tokenizer))
    workers: dict[GpuId, Worker] = {}
    for gpu in (FIRST, SECOND):
        workers[gpu] = Worker(gpu, live, tmp_path, workers)
        live.fleet.register_gpu(workers[gpu].gpu)
        workers[gpu].start()
    yield workers
    for worker in workers.values():
        worker.stop()


class Cluster:
    """The router's part of these tests."""

    def __init__(self, world: World, workers: dict[GpuId, Worker]) -> None:
        self.world = world
        self.workers = workers

    def place(self, name: str, gpus: tuple[GpuId, ...], *victims: str) -> None:
        """Decide to load a replica, and have its job end, so that it can be closed."""
        self.world.live.jobs.create(job_spec(f"job_{name}", model=name))
        new = NewReplica(model=model_info(name, num_bytes=_ROOM), gpus=gpus, victims=victims)
        assert self.world.apply(f"job_{name}", name, new) is Applied.OK
        self.world.live.jobs.end(f"job_{name}", JobStatus.CANCELED, {})

    def load(self, name: str, gpus: tuple[GpuId, ...], *victims: str) -> Future[LoadedReplica]:
        """Have its leader load it."""
        self.place(name, gpus, *victims)
        return self.workers[gpus[0]].replicas.ensure(name)

    def state(self, name: str) -> ReplicaState | None:
        order = self.world.live.fleet.replica(name)
        return order and order.replica.state

    def names_loaded(self, gpu: GpuId) -> list[str]:
        return [loaded.replica.id for loaded in self.workers[gpu].replicas.loaded()]


@pytest.fixture
def cluster(world: World, workers: dict[GpuId, Worker]) -> Cluster:
    return Cluster(world, workers)


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_the_leader_loads_on_the_devices_of_all_gpus_its_own_first(
    cluster: Cluster, engine: type[WatchfulEngine]
) -> None:
    cluster.load("pair", (SECOND, FIRST)).result(10)
    assert engine.loads == [(("cpu:1", "cpu:0"), [])]
    assert (cluster.names_loaded(SECOND), cluster.names_loaded(FIRST)) == (["pair"], [])


def test_a_worker_that_sees_one_gpu_alone_says_so_in_place_of_loading_all_partitions_onto_it(
    cluster: Cluster, engine: type[WatchfulEngine], redis: Redis
) -> None:
    for gpu in (FIRST, SECOND):
        redis.hset(f"sllm:gpu:{gpu}", "device", "cuda:0")
    cluster.workers[FIRST].replicas._neighbours._device = "cuda:0"
    with pytest.raises(OutOfMemoryError, match="CUDA_VISIBLE_DEVICES"):
        cluster.load("pair", (FIRST, SECOND)).result(10)
    assert engine.loads == []


def test_what_a_neighbour_leads_is_freed_by_it_before_the_load_begins(
    cluster: Cluster, engine: type[WatchfulEngine]
) -> None:
    cluster.load("left", (FIRST,)).result(10)
    cluster.load("right", (SECOND,)).result(10)
    cluster.load("pair", (FIRST, SECOND), "left", "right").result(10)
    assert engine.loads[-1] == (("cpu:0", "cpu:1"), [])
    assert cluster.workers[SECOND].asked == ["right"]
    assert (cluster.names_loaded(FIRST), cluster.names_loaded(SECOND)) == (["pair"], [])


def test_a_replica_on_a_followers_gpu_waits_for_the_leader_of_the_pair(
    cluster: Cluster, engine: type[WatchfulEngine]
) -> None:
    cluster.load("pair", (FIRST, SECOND)).result(10)
    cluster.load("right", (SECOND,), "pair").result(10)
    assert engine.loads[-1] == (("cpu:1",), [])
    assert cluster.workers[FIRST].asked == ["pair"]
    assert cluster.names_loaded(FIRST) == []


def test_what_was_closed_by_somebody_else_is_waited_for_as_well(cluster: Cluster, engine: type[WatchfulEngine]) -> None:
    cluster.load("right", (SECOND,)).result(10)
    # Its keep-alive is over, and the message to its worker got lost.
    assert cluster.world.live.fleet.unload_replica("right") == SECOND
    cluster.load("pair", (FIRST, SECOND)).result(10)
    assert engine.loads[-1] == (("cpu:0", "cpu:1"), [])


def test_two_leaders_that_need_each_others_memory_do_not_wait_for_ever(
    cluster: Cluster, engine: type[WatchfulEngine]
) -> None:
    cluster.load("left", (FIRST,)).result(10)
    cluster.load("right", (SECOND,)).result(10)
    live = cluster.world.live
    for name, gpu in (("left", FIRST), ("right", SECOND)):
        assert live.fleet.unload_replica(name) == gpu
    for gpu in (FIRST, SECOND):
        # As if each could hold two.
        cluster.world.redis.hset(f"sllm:gpu:{gpu}", "capacity_bytes", 2 * _ROOM)
    loads = [cluster.load("pair", (FIRST, SECOND)), cluster.load("riap", (SECOND, FIRST))]
    for load in loads:
        load.result(10)
    assert [closed for _, closed in engine.loads[2:]] == [[], []]


def test_a_load_that_waits_for_memory_ends_when_nobody_wants_it_any_more(
    cluster: Cluster, engine: type[WatchfulEngine]
) -> None:
    cluster.load("right", (SECOND,)).result(10)
    engine.may_load.clear()
    engine.began.clear()
    # The neighbour is in the middle of a load, so what it should free stays for now.
    cluster.world.redis.hset(f"sllm:gpu:{SECOND}", "capacity_bytes", 2 * _ROOM)
    busy = cluster.load("busy", (SECOND,))
    assert engine.began.wait(60)
    cluster.world.redis.hset(f"sllm:gpu:{FIRST}", "capacity_bytes", 2 * _ROOM)
    waiting = cluster.load("pair", (FIRST, SECOND), "right")
    until(lambda: cluster.workers[SECOND].asked == ["right"])
    assert cluster.world.live.fleet.unload_replica("pair") == FIRST
    with pytest.raises(StaleError):
        waiting.result(10)
    until(lambda: cluster.state("pair") is None)
    engine.may_load.set()
    busy.result(10)


def test_a_load_that_finds_its_device_lost_ends_the_process_before_anybody_hears_of_it(
    cluster: Cluster, engine: type[WatchfulEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        """Nothing runs behind it."""

    ends = threading.Event()

    def end(why: str) -> None:
        ends.set()
        raise Ended(why)

    def lose(*_: object, **__: object) -> None:
        raise DeviceLostError("cuda:0 is lost to this process")

    monkeypatch.setattr("sllm_tasks.worker.replicas.end_process", end)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(engine, "load", lose)
    load = cluster.load("left", (FIRST,))
    assert ends.wait(10)
    assert not load.done()


def test_a_load_that_fails_in_whatever_way_gives_its_memory_back(
    cluster: Cluster, engine: type[WatchfulEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(engine, "load", fail)
    with pytest.raises(RuntimeError, match="illegal"):
        cluster.load("one", (FIRST,)).result(10)
    until(lambda: cluster.state("one") is None)
    assert cluster.world.reserved_bytes(FIRST) == 0


def test_a_replica_that_the_cluster_has_forgotten_is_freed_unless_it_is_announced_again(
    cluster: Cluster, redis: Redis
) -> None:
    live, worker = cluster.world.live, cluster.workers[FIRST]
    cluster.load("announced", (FIRST,)).result(10)
    (announced,) = worker.replicas.loaded()
    redis.hset(f"sllm:gpu:{FIRST}", "capacity_bytes", 2 * _ROOM)
    cluster.load("forgotten", (FIRST,)).result(10)
    redis.flushall()
    live.fleet.register_gpu(worker.gpu, [announced.order])
    until(lambda: cluster.names_loaded(FIRST) == ["announced"])
    assert cluster.state("announced") is ReplicaState.READY


def test_when_a_follower_dies_the_leader_frees_the_replica(cluster: Cluster, redis: Redis) -> None:
    cluster.load("pair", (FIRST, SECOND)).result(10)
    cluster.world.silence(SECOND)
    cluster.world.live.fleet.reap_gpu(SECOND)
    assert cluster.state("pair") is ReplicaState.UNLOADING
    until(lambda: cluster.names_loaded(FIRST) == [])
    until(lambda: cluster.state("pair") is None)
    assert cluster.world.reserved_bytes(FIRST) == 0


def test_a_followers_next_worker_loads_when_the_dead_replica_is_freed(
    cluster: Cluster, engine: type[WatchfulEngine]
) -> None:
    cluster.load("pair", (FIRST, SECOND)).result(10)
    cluster.world.live.fleet.register_gpu(cluster.workers[SECOND].gpu)
    cluster.load("right", (SECOND,)).result(10)
    assert engine.loads[-1] == (("cpu:1",), [])
