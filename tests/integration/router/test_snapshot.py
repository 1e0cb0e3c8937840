"""The router's picture of the cluster stays complete when the live state does not answer all of what it asks."""

from __future__ import annotations

import pytest

from sllm_tasks.cluster import GpuState, ReplicaState
from sllm_tasks.errors import UnavailableError
from sllm_tasks.ledger.database import Database
from sllm_tasks.livestate.fleet import FleetStore
from sllm_tasks.policy.view import ClusterView
from sllm_tasks.router.snapshot import Snapshot
from tests.integration.livestate.world import GPU, WORKER, World, replica_order


@pytest.fixture
def snapshot(world: World, ledger: Database) -> Snapshot:
    """It has never looked; the cluster is one gpu with one replica."""
    world.add_gpu(GPU, WORKER, replica_order())
    return Snapshot(world.live, ledger)


@pytest.fixture(params=["gpu", "replicas"])
def silent(request: pytest.FixtureRequest) -> str:
    """The question that is not answered."""
    return str(request.param)


def look_in_vain(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, question: str) -> None:
    def no_answer(*_: object) -> None:
        raise UnavailableError("the live state does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(FleetStore, question, no_answer)
        with pytest.raises(UnavailableError):
            snapshot.view()


def states(view: ClusterView) -> tuple[GpuState, ReplicaState]:
    return view.gpus[GPU].state, view.replicas["replica_1"].state


def test_changes_that_could_not_be_read_are_read_the_next_time(
    world: World, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    assert states(snapshot.view()) == (GpuState.UP, ReplicaState.READY)
    world.live.router.drain(epoch=world.lead(), replica_id="replica_1")
    world.live.fleet.set_gpu_state(GPU, GpuState.DRAINING)
    look_in_vain(snapshot, monkeypatch, silent)
    assert states(snapshot.view()) == (GpuState.DRAINING, ReplicaState.DRAINING)


def test_a_first_look_that_failed_is_no_look(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch, silent: str) -> None:
    look_in_vain(snapshot, monkeypatch, silent)
    assert states(snapshot.view()) == (GpuState.UP, ReplicaState.READY)
