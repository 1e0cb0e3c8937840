"""A cluster that was measured, simulated: it takes the times that the estimators have learned."""

from __future__ import annotations

import pytest

from sllm_tasks.cluster import Gpu, GpuId, ModelInfo, NodeInfo, Tier, TierUsage
from sllm_tasks.estimators.facts import Fact, JobFact, LoadFact
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.simulation.links import Discipline
from sllm_tasks.simulation.measured import MeasuredCluster
from sllm_tasks.simulation.policies.registry import system_of
from sllm_tasks.simulation.run import Simulation
from sllm_tasks.simulation.scenario import Scenario
from sllm_tasks.simulation.system import Loader, System
from sllm_tasks.traces.records import Trace, TraceRequest

_START_S, _SSD_BYTES_PER_S, _DRAM_BYTES_PER_S = 0.2, 1e8, 5e8
_SIZES = {"a": 20_000_000, "b": 40_000_000, "c": 60_000_000}


def _facts() -> tuple[Fact, ...]:
    loads = [
        LoadFact(node="node0", tier=tier, num_bytes=num_bytes, seconds=_START_S + num_bytes / bytes_per_s)
        for tier, bytes_per_s in ((Tier.SSD, _SSD_BYTES_PER_S), (Tier.DRAM, _DRAM_BYTES_PER_S))
        for num_bytes in list(_SIZES.values()) * 4
    ]
    jobs = [
        JobFact(
            model=model,
            prompt_tokens=tokens,
            completion_tokens=50,
            first_token_s=tokens * 0.001,
            token_s=0.008 + 0.002 * batch,
            batch=batch,
        )
        for model in _SIZES
        for tokens, batch in ((20, 1), (40, 2), (60, 3), (80, 4)) * 3
    ]
    return (*loads, *jobs)


def _cluster() -> MeasuredCluster:
    gpu = GpuId("node0", 0)
    usage = TierUsage(capacity_bytes=10**9, used_bytes=0)
    return MeasuredCluster(
        nodes=[NodeInfo(name="node0", checkpoints=frozenset(_SIZES), ssd=usage, dram=usage, gpus=(gpu,))],
        gpus=[Gpu(id=gpu, worker_id="w", device="cpu", capacity_bytes=10**8)],
        models=[
            ModelInfo(
                name=name,
                checkpoint=name,
                num_gpus=1,
                bytes_per_gpu=num_bytes,
                max_jobs=4,
                context=512,
                keep_alive_s=60.0,
                checkpoint_bytes=num_bytes,
            )
            for name, num_bytes in _SIZES.items()
        ],
        estimates=LearnedEstimates(_facts()),
        prompt_tokens=50,
    )


def test_loads_steps_and_prefills_take_what_was_measured() -> None:
    cluster = _cluster()
    assert cluster.load_start_s == pytest.approx(_START_S)
    hardware = cluster.hardware()
    (node,), model = hardware.nodes, hardware.models_by_name["b"]
    assert node.ssd_bytes_per_s == pytest.approx(_SSD_BYTES_PER_S)
    assert node.gpu.pcie_bytes_per_s == pytest.approx(_DRAM_BYTES_PER_S)
    assert model.step_s(node.gpu, 3) == pytest.approx(0.014)
    assert model.prefill_ratio * model.step_s(node.gpu, 1) == pytest.approx(0.001)
    assert model.bytes_per_gpu(4) == _SIZES["b"]


def test_a_measured_start_is_its_dispatch_and_its_load() -> None:
    cluster = _cluster()
    requests = tuple(TraceRequest(arrival_s=at_s, model="b", input_tokens=50, output_tokens=10) for at_s in (0.0, 5.0))
    scenario = Scenario(
        name="measured",
        hardware=cluster.hardware(),
        trace=Trace(name="measured", duration_s=6.0, requests=requests),
        max_jobs=4,
        placement={"node0": tuple(_SIZES)},
        dispatch_s=0.01,
        facts=_facts(),
    )
    system = System(
        name="measured",
        title="measured",
        make_policy=system_of("ours").make_policy,
        loader=Loader(discipline=Discipline.REMAINING, start_s=cluster.load_start_s),
        keep_alive_s=60.0,
    )
    cold, warm = Simulation(scenario, system, checked=True).run().jobs
    assert cold.startup_s == pytest.approx(0.01 + _START_S + _SIZES["b"] / _SSD_BYTES_PER_S)
    assert cold.predicted_s == pytest.approx(cold.actual_s, rel=0.01)
    assert warm.startup_s == pytest.approx(0.01)
