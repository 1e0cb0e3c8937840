"""A router over a real live state and a real ledger, and workers that are played by hand."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sllm_tasks.app import make_app
from sllm_tasks.cluster import NodeInfo
from sllm_tasks.config import Settings
from sllm_tasks.dispatch import Dispatcher
from sllm_tasks.ledger import inventory
from sllm_tasks.ledger.database import Database
from sllm_tasks.livestate import LiveState
from sllm_tasks.router.misfits import Misfits
from sllm_tasks.router.routing import Router
from sllm_tasks.router.rules import QueueRules
from sllm_tasks.router.snapshot import Snapshot
from sllm_tasks.router.waiting import WaitingJobs
from sllm_tasks.signing import Signer
from tests.integration.livestate.conftest import redis, world
from tests.integration.livestate.world import GPU, SHAPE, World
from tests.support.valkey import live_url, valkey_server

__all__ = ["live_url", "redis", "valkey_server", "world"]


@pytest.fixture
def live(live_url: str) -> Iterator[LiveState]:
    """An empty live state; Celery's queues share the server."""
    with LiveState(live_url) as opened:
        yield opened


@pytest.fixture
def ledger(database: Database) -> Database:
    """A ledger with the model `m`."""
    now = datetime.now(UTC)
    settings = inventory.ModelSettings(
        name="m", source="/nowhere", engine=SHAPE.engine, dtype="auto", num_gpus=1, max_jobs=SHAPE.max_jobs,
        context=SHAPE.context, keep_alive_s=60, min_replicas=0, max_replicas=1,
    )  # fmt: skip
    with database.transaction() as session:
        inventory.add_checkpoint(
            session,
            inventory.NewCheckpoint(
                digest="c", source="/nowhere", architecture="TestForCausalLM", dtype="float32", num_bytes=1,
                num_parameters=1, num_partitions=1, config="{}", generation_config=None, tokenizer=None,
                tokenizer_config=None, chat_template=None, eos_token_ids=(), created_at=now,
            ),
        )  # fmt: skip
        inventory.put_model(session, settings, deployment="op_1", now=now)
        deployed = inventory.DeployedModel(
            checkpoint="c", context=SHAPE.context, dtype="float32", weights_bytes=1, kv_bytes_per_token=1,
            bytes_per_gpu=SHAPE.bytes_per_gpu,
        )  # fmt: skip
        inventory.note_deployed(session, settings, deployed, deployment="op_1", now=now)
    return database


class RouterWorld:
    """A router that decides when it is told to, for a cluster of one gpu."""

    def __init__(self, world: World, ledger: Database, live_url: str, *, max_running_jobs: int | None = None) -> None:
        self.world = world
        self.live = world.live
        self.ledger = ledger
        dispatcher = Dispatcher(
            make_app(Settings(redis_url=live_url, home=Path("/nowhere")), "test"), Signer("secret"), world.live
        )
        rules = QueueRules(world.live, ledger, max_running_jobs=max_running_jobs)
        waiting = WaitingJobs(world.live, rules, max_attempts=3)
        epoch = world.lead()
        self.router = Router(
            world.live,
            dispatcher,
            Snapshot(world.live, ledger),
            waiting,
            Misfits(world.live, ledger),
            lambda: epoch,
        )
        world.live.fleet.beat_node(NodeInfo(name=GPU.node, checkpoints=frozenset({"c"})), world.live.now_ms())

    def placed(self, *job_ids: str) -> list[str]:
        """Those jobs that have a place."""
        views = self.live.jobs.views(job_ids)
        return [job_id for job_id, view in zip(job_ids, views, strict=True) if view is not None and view.gpu]

    def reason(self, job_id: str) -> str:
        """Why a job waits."""
        view = self.live.jobs.view(job_id)
        assert view is not None
        return view.wait_reason


@pytest.fixture
def routed(world: World, ledger: Database, live_url: str) -> RouterWorld:
    """A router without limits on tenants."""
    return RouterWorld(world, ledger, live_url)
