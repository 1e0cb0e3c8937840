"""Small clusters to simulate."""

from __future__ import annotations

from sllm_tasks.simulation.fleet import SimOutcome
from sllm_tasks.simulation.hardware import A40, Hardware, ModelHardware, NodeHardware, opt_models
from sllm_tasks.simulation.policies.registry import system_of
from sllm_tasks.simulation.results import JobRecord, RunRecord
from sllm_tasks.simulation.run import Simulation
from sllm_tasks.simulation.scenario import NodeFailure, Scenario
from sllm_tasks.traces.records import Trace, TraceRequest


def node(name: str, *, num_gpus: int = 1, dram_bytes: int = 400_000_000_000) -> NodeHardware:
    """A server of the paper's, with fewer gpus."""
    return NodeHardware(
        name=name,
        gpu=A40,
        num_gpus=num_gpus,
        dram_bytes=dram_bytes,
        ssd_bytes=2_000_000_000_000,
        ssd_bytes_per_s=6e9,
        network_bytes_per_s=1.25e9,
    )


def scene(
    *requests: TraceRequest,
    nodes: tuple[NodeHardware, ...] = (node("node0"),),
    models: tuple[ModelHardware, ...] | None = None,
    max_jobs: int = 1,
    timeout_s: float = 300.0,
    placement: dict[str, tuple[str, ...]] | None = None,
    failures: tuple[NodeFailure, ...] = (),
) -> Scenario:
    """A scenario in which every node has every model on its SSD, unless it says otherwise."""
    hardware = Hardware(nodes=nodes, models=models or opt_models("opt-6.7b", 3))
    names = tuple(model.name for model in hardware.models)
    return Scenario(
        name="scene",
        hardware=hardware,
        trace=Trace(name="scene", duration_s=max(request.arrival_s for request in requests) + 1, requests=requests),
        max_jobs=max_jobs,
        timeout_s=timeout_s,
        placement={each.name: names for each in nodes} if placement is None else placement,
        failures=failures,
    )


def request(arrival_s: float, model: int = 0, *, input_tokens: int = 100, output_tokens: int = 100) -> TraceRequest:
    """A request of the model with that number."""
    name = f"opt-6.7b-{model:03}"
    return TraceRequest(arrival_s=arrival_s, model=name, input_tokens=input_tokens, output_tokens=output_tokens)


def play(scenario: Scenario, system: str) -> RunRecord:
    """Simulate it, checking after every decision what must always hold."""
    return Simulation(scenario, system_of(system), checked=True).run()


def finished(run: RunRecord) -> list[JobRecord]:
    """Jobs that started in time and ended."""
    return [job for job in run.jobs if job.outcome is SimOutcome.FINISHED]
