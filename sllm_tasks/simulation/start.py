"""What there is before the first request: deployed models, checkpoints in their stores, measured tiers."""

from __future__ import annotations

from collections.abc import Mapping

from sllm_tasks.cluster import ModelInfo, Tier
from sllm_tasks.estimators.facts import LoadFact
from sllm_tasks.estimators.learned import LearnedEstimates
from sllm_tasks.simulation.fleet import Fleet
from sllm_tasks.simulation.loading import Prefetching
from sllm_tasks.simulation.scenario import Scenario
from sllm_tasks.simulation.system import Loader, System

#: Bytes and repetitions of what `sllm node calibrate` would measure before anything is loaded.
_CALIBRATION_BYTES = 4_000_000_000
_NUM_CALIBRATIONS = 4


def deployed_models(scenario: Scenario, system: System) -> Mapping[str, ModelInfo]:
    """The models of a scenario as a system has them deployed; a checkpoint has its model's name."""
    return {
        model.name: ModelInfo(
            name=model.name,
            checkpoint=model.name,
            num_gpus=model.num_gpus,
            bytes_per_gpu=model.bytes_per_gpu(scenario.max_jobs),
            max_jobs=scenario.max_jobs,
            context=model.context,
            keep_alive_s=system.keep_alive_s,
            max_replicas=sum(node.num_gpus for node in scenario.hardware.nodes),
            engine="simulated",
            checkpoint_bytes=model.checkpoint_bytes,
        )
        for model in scenario.hardware.models
    }


def fill_stores(fleet: Fleet, scenario: Scenario, system: System) -> None:
    """Put checkpoints on SSDs, and begin to bring them into DRAM, for systems that do so."""
    if not system.has_store:
        return
    models = scenario.hardware.models_by_name
    for number, node in enumerate(fleet.nodes.values()):
        placed = [(name, models[name].checkpoint_bytes) for name in scenario.placement.get(node.name, ())]
        node.place(placed)
        for name in scenario.in_dram.get(node.name, ()):
            node.hold(Tier.DRAM, name, models[name].checkpoint_bytes)
        if system.fills_dram:
            # Each node begins elsewhere, so that soon every model is in some node's DRAM.
            begin = number * len(placed) // len(fleet.nodes)
            Prefetching(node, placed[begin:] + placed[:begin]).go_on()


def calibrate(fleet: Fleet, loader: Loader, estimates: LearnedEstimates) -> None:
    """Tell the estimators what the tiers of each node deliver."""
    for node in fleet.nodes.values():
        rates = {
            Tier.REMOTE: node.hardware.network_bytes_per_s,
            Tier.SSD: node.hardware.ssd_bytes_per_s,
            Tier.DRAM: node.hardware.gpu.pcie_bytes_per_s,
        }
        for tier, bytes_per_s in rates.items():
            seconds = _CALIBRATION_BYTES / min(bytes_per_s, loader.max_bytes_per_s)
            fact = LoadFact(node=node.name, tier=tier, num_bytes=_CALIBRATION_BYTES, seconds=seconds, to_gpu=False)
            for _ in range(_NUM_CALIBRATIONS):
                estimates.learn(fact)
