"""Whom the paper's policy and Shepherd* put out, and to what gpus that leads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sllm_tasks.cluster import GpuId, ModelInfo, Replica
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.policy.view import ClusterView, RunningJob
from sllm_tasks.simulation.policies.locality import SERVERLESSLLM, SHEPHERD
from sllm_tasks.simulation.system import Order, System
from tests.unit.policy.views import make_model, make_replica, make_view, waiting_job

_GPUS = [GpuId(f"node{node}", index) for node in range(3) for index in range(4)]
_WANTED = make_model("wanted", num_gpus=2, checkpoint_bytes=10**9)
_SMALL, _LARGE, _HUGE = (make_model(f"of {number}", num_gpus=number, checkpoint_bytes=number) for number in (1, 2, 3))


def _view(*replicas: Replica) -> ClusterView:
    """Three nodes of four gpus, of which only the first has the wanted model, in DRAM."""
    view = make_view(*replicas, models=[_WANTED, _SMALL, _LARGE, _HUGE], gpus=_GPUS, now_ms=10_000)
    others = frozenset({_SMALL.checkpoint, _LARGE.checkpoint})
    nodes = {
        name: replace(info, gpus=tuple(gpu for gpu in _GPUS if gpu.node == name), checkpoints=others, in_dram=others)
        for name, info in view.nodes.items()
    }
    everything = others | {_WANTED.checkpoint}
    nodes["node0"] = replace(nodes["node0"], checkpoints=everything, in_dram=everything)
    running = {replica.id: (_job(replica),) for replica in replicas if replica.num_jobs}
    return replace(view, nodes=nodes, running=running)


def _job(replica: Replica) -> RunningJob:
    return RunningJob(
        id=f"job of {replica.id}", model=replica.model, prompt_tokens=10, max_tokens=100, started_ms=9_000
    )


def _busy(replica_id: str, model: ModelInfo, *indexes: int) -> Replica:
    return make_replica(replica_id, _GPUS[0], model, gpus=tuple(_GPUS[index] for index in indexes), num_jobs=1)


def _decide(system: System, view: ClusterView) -> Order:
    return system.make_policy(0).decide(view, waiting_job("wanted"), LearnedEstimates())


def _put_out(order: Order) -> set[str]:
    return {*order.preempted, *(move.from_replica for move in order.decision.choice.moves)}


@pytest.mark.parametrize("system", [SERVERLESSLLM, SHEPHERD])
def test_one_replica_is_put_out_where_its_gpus_are_enough(system: System) -> None:
    order = _decide(system, _view(_busy("a", _LARGE, 0, 1), _busy("b", _LARGE, 2, 3)))
    assert _put_out(order) == {"a"}
    assert order.decision.choice.gpus == (_GPUS[0], _GPUS[1])


@pytest.mark.parametrize("system", [SERVERLESSLLM, SHEPHERD])
def test_who_is_put_out_adds_to_the_gpus_that_are_free_or_idle(system: System) -> None:
    a, b, c = (_busy(name, _SMALL, index) for index, name in enumerate("abc"))
    order = _decide(system, _view(a, b, c))
    assert (_put_out(order), order.decision.choice.victims) == ({"a"}, ())
    assert set(order.decision.choice.gpus) == {_GPUS[0], _GPUS[3]}
    # Nobody is sent to the free gpu that is wanted.
    assert all(move.gpus[0].node != "node0" for move in order.decision.choice.moves)
    idle = make_replica("idle", _GPUS[3], _SMALL)
    order = _decide(system, _view(a, b, c, idle))
    assert (_put_out(order), order.decision.choice.victims) == ({"a"}, ("idle",))


@pytest.mark.parametrize("system", [SERVERLESSLLM, SHEPHERD])
def test_nobody_is_put_out_whom_another_one_makes_superfluous(system: System) -> None:
    # The small one is gone first, but then the other one has to go as well.
    view = _view(_busy("small", _SMALL, 0), _busy("huge", _HUGE, 1, 2, 3))
    view = replace(view, models={**view.models, "wanted": replace(_WANTED, num_gpus=3)})
    assert _put_out(_decide(system, view)) == {"huge"}
