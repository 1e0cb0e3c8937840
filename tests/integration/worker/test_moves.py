"""Two workers in this process, with all of their threads, and a job that moves between them while things go wrong."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from loaders.format.geometry import MODEL_DIRECTORY
from sllm_tasks.cluster import GpuId, GpuState, NodeInfo
from sllm_tasks.config import Settings
from sllm_tasks.dispatch import RUN_JOB
from sllm_tasks.engines.base import EngineEvent, EngineLimits
from sllm_tasks.engines.instant import InstantEngine
from sllm_tasks.errors import ConflictError, OutOfMemoryError
from sllm_tasks.jobs import JobPhase, SamplingParams
from sllm_tasks.livestate import migrations
from sllm_tasks.livestate.jobs import LiveJob
from sllm_tasks.livestate.router import Applied, NewReplica
from sllm_tasks.migration.records import Migration
from sllm_tasks.migration.states import MigrationReason, MigrationState
from sllm_tasks.mover import Mover
from sllm_tasks.services import Services
from sllm_tasks.signing import Trigger
from sllm_tasks.worker.worker import GpuWorker
from tests.integration.livestate.world import FAR_MS, World, job_spec, model_info

SOURCE, TARGET = GpuId("node0", 0), GpuId("node1", 0)
_STEP_S = 0.005
_MAX_TOKENS = 100
_PROMPT = (1, 2, 3)
#: So many tokens that the job has not ended when everything is over.
_ENDLESS = 4000


class SlowEngine(InstantEngine):
    """An echo with time between its tokens."""

    has_memory = True
    #: Loads wait for it.
    may_load: threading.Event

    def load(self, checkpoint: Path, devices: tuple[str, ...], limits: EngineLimits, load: object = None) -> None:
        self.may_load.wait(10)
        if not self.has_memory:
            raise OutOfMemoryError("no memory for the weights")
        super().load(checkpoint, devices, limits)

    def poll(self) -> list[EngineEvent]:
        time.sleep(_STEP_S)
        return super().poll()


class Cluster:
    """The two workers, and what router and client do in these tests."""

    def __init__(self, world: World, workers: dict[GpuId, GpuWorker], homes: dict[GpuId, Path]) -> None:
        self.live = world.live
        self.homes = homes
        self._world = world
        self._workers = workers

    def start_job(self, max_tokens: int = _MAX_TOKENS) -> None:
        """Have a job decode at the source, which loads its replica for it."""
        spec = job_spec(params=SamplingParams(max_tokens=max_tokens, seed=1), prompt_ids=_PROMPT)
        self.live.jobs.create(spec)
        new = NewReplica(model=replace(model_info(), context=2 * _ENDLESS), gpus=(SOURCE,))
        assert self._world.apply("job_1", "replica_source", new) is Applied.OK
        trigger = Trigger(task=RUN_JOB, subject="job_1", attempt=1, expires_ms=FAR_MS)
        threading.Thread(target=self._workers[SOURCE].run_job, args=(trigger,), daemon=True).start()
        until(lambda: len(self.live.jobs.tokens("job_1")) > 2)

    def move(self) -> str:
        """Move it to the other gpu, which has to load a replica."""
        return Mover(self.live).move("job_1", MigrationReason.OPERATOR, TARGET)

    def migration(self, migration_id: str) -> Migration:
        """A migration when it is over."""

        def found() -> Migration:
            migration = self.live.migrations.get(migration_id)
            assert migration is not None
            return migration

        until(lambda: found().state.is_terminal)
        return found()

    def job(self) -> LiveJob:
        """The job as it stands."""
        view = self.live.jobs.view("job_1")
        assert view is not None
        return view

    def assert_whole(self) -> None:
        """The job ends with every token once, at its first attempt."""
        until(lambda: self.job().phase is JobPhase.FINISHING)
        tokens = self.live.jobs.tokens("job_1")
        assert [token.token_id for token in tokens] == [_PROMPT[index % 3] for index in range(_MAX_TOKENS)]
        assert [token.index for token in tokens] == list(range(_MAX_TOKENS))
        assert self.job().attempt == 1


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.002)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[SlowEngine]:
    may_load = threading.Event()
    may_load.set()
    slow = type("Slow", (SlowEngine,), {"may_load": may_load})
    monkeypatch.setattr("sllm_tasks.worker.replicas.create_engine", lambda name: slow())
    # Libraries that an echo does not need.
    monkeypatch.setattr("sllm_tasks.worker.worker.preload_engine", lambda name: None)
    return slow


@pytest.fixture
def cluster(world: World, live_url: str, tmp_path: Path, engine: type[SlowEngine]) -> Iterator[Cluster]:
    workers, homes, opened = {}, {}, []
    for gpu in (SOURCE, TARGET):
        settings = Settings(
            home=tmp_path, node=gpu.node, redis_url=live_url, pool_bytes=0, gpu_memory_bytes=100, grace_s=0
        )
        homes[gpu] = settings.node_home
        tokenizer = settings.node_home / "checkpoints" / "c" / MODEL_DIRECTORY / "tokenizer.json"
        tokenizer.parent.mkdir(parents=True)
        Tokenizer(WordLevel({"a": 0, "b": 1, "c": 2, "d": 3}, unk_token="a")).save(str(tokenizer))
        world.live.fleet.beat_node(NodeInfo(name=gpu.node, checkpoints=frozenset({"c"})), world.live.now_ms())
        opened.append(Services(settings, "worker"))
        workers[gpu] = GpuWorker(settings, opened[-1])
        workers[gpu].start()
    yield Cluster(world, workers, homes)
    engine.may_load.set()
    for worker in workers.values():
        worker.stop()
    for services in opened:
        services.close()
    # Messages of Celery to a router that is not there.
    world.redis.delete("router", *world.redis.keys("_kombu.*"))


def test_a_job_moves_and_goes_on_with_the_next_token(cluster: Cluster) -> None:
    cluster.start_job()
    migration = cluster.migration(cluster.move())
    assert migration.state is MigrationState.SUCCEEDED
    assert cluster.job().gpu == TARGET
    assert cluster.job().num_tokens < _MAX_TOKENS
    cluster.assert_whole()


def test_a_target_without_memory_leaves_the_job_where_it_is(cluster: Cluster, engine: type[SlowEngine]) -> None:
    cluster.start_job()
    engine.has_memory = False
    migration = cluster.migration(cluster.move())
    assert migration.state is MigrationState.FAILED
    cluster.assert_whole()


def test_a_target_without_the_checkpoint_leaves_the_job_where_it_is(cluster: Cluster) -> None:
    cluster.start_job()
    shutil.rmtree(cluster.homes[TARGET])
    migration_id = cluster.move()
    cluster.live.fleet.beat_node(NodeInfo(name=TARGET.node, checkpoints=frozenset()), cluster.live.now_ms())
    migration = cluster.migration(migration_id)
    assert migration.state is MigrationState.FAILED
    cluster.assert_whole()


def test_a_job_that_ends_while_its_target_loads_needs_no_move(cluster: Cluster, engine: type[SlowEngine]) -> None:
    cluster.start_job()
    engine.may_load.clear()
    migration_id = cluster.move()
    cluster.assert_whole()
    engine.may_load.set()
    assert cluster.migration(migration_id).state is MigrationState.NOT_NEEDED


def test_a_job_that_is_cancelled_while_it_moves_ends(cluster: Cluster, engine: type[SlowEngine]) -> None:
    cluster.start_job(_ENDLESS)
    engine.may_load.clear()
    migration_id = cluster.move()
    assert cluster.live.jobs.cancel("job_1", "user") == "asked"
    engine.may_load.set()
    until(lambda: cluster.job().phase is JobPhase.FINISHING)
    assert cluster.migration(migration_id).state in {MigrationState.NOT_NEEDED, MigrationState.SUCCEEDED}
    assert cluster.live.migrations.active() == []


def test_a_job_that_moves_cannot_be_moved_at_the_same_time(cluster: Cluster, engine: type[SlowEngine]) -> None:
    cluster.start_job()
    engine.may_load.clear()
    migration_id = cluster.move()
    with pytest.raises(ConflictError, match="being moved already"):
        cluster.move()
    engine.may_load.set()
    assert cluster.migration(migration_id).state is MigrationState.SUCCEEDED
    cluster.assert_whole()


def test_a_target_that_is_drained_meanwhile_gets_nothing(cluster: Cluster, engine: type[SlowEngine]) -> None:
    cluster.start_job()
    engine.may_load.clear()
    migration_id = cluster.move()
    assert cluster.live.fleet.set_gpu_state(TARGET, GpuState.DRAINING)
    engine.may_load.set()
    assert cluster.migration(migration_id).state is MigrationState.FAILED
    assert cluster.job().gpu == SOURCE
    cluster.assert_whole()


def damaged(message: bytes) -> bytes:
    """Flip a bit of the last token, or of the digest where there are none."""
    return message[:-1] + bytes([message[-1] ^ 1])


def test_damaged_messages_cost_time_and_nothing_else(
    cluster: Cluster, engine: type[SlowEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = migrations._notice
    monkeypatch.setattr(migrations, "_notice", lambda message: read(damaged(message)))
    cluster.start_job(_ENDLESS)
    migration = cluster.migration(cluster.move())
    assert migration.state is MigrationState.SUCCEEDED
    assert migration.pause_ms is not None
    assert migration.pause_ms < 3_000
    tokens = [token.token_id for token in cluster.live.jobs.tokens("job_1")]
    assert tokens == [_PROMPT[index % 3] for index in range(len(tokens))]
    assert len(tokens) > migration.num_sent
