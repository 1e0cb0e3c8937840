"""What happens in a simulation: the cluster, the requests, and what breaks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sllm_tasks.errors import SimulationError
from sllm_tasks.estimators.facts import Fact
from sllm_tasks.simulation.hardware import Hardware
from sllm_tasks.traces.records import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailure:
    """A node is gone for a while; it comes back with its SSD and nothing else."""

    node: str
    at_s: float
    until_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Raises SimulationError or TraceError before anything runs, if it cannot work."""

    name: str
    hardware: Hardware
    trace: Trace
    seed: int = 0
    #: Jobs that one replica runs at once.
    max_jobs: int = 1
    #: A job that did not start within this time is given up.
    timeout_s: float = 300.0
    #: Models on the SSD of each node, for systems that have a store.
    placement: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Models in the DRAM of each node when the trace begins, besides those that a system brings there.
    in_dram: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    failures: tuple[NodeFailure, ...] = ()
    #: From a job's acceptance until it is decided about; where a start takes seconds that is nothing.
    dispatch_s: float = 0.0
    #: What loads took in units of what the hardware says; each load draws one. Without any, they take just that.
    load_ratios: tuple[float, ...] = ()
    #: What was measured before; without any, the tiers of all nodes are calibrated.
    facts: tuple[Fact, ...] = ()

    def __post_init__(self) -> None:
        if self.max_jobs < 1:
            raise SimulationError(f"max_jobs is at least 1, not {self.max_jobs}")
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise SimulationError(f"timeout_s is a positive number, not {self.timeout_s!r}")
        self.hardware.check_models_fit(self.max_jobs)
        models = self.hardware.models_by_name
        self.trace.check_models(frozenset(models))
        nodes = {node.name: node for node in self.hardware.nodes}
        for name, placed in (*self.placement.items(), *self.in_dram.items()):
            if name not in nodes or not set(placed) <= set(models):
                raise SimulationError(f"the placement on {name} names a node or models that are not there")
        for name, placed in self.placement.items():
            if sum(models[model].checkpoint_bytes for model in placed) > nodes[name].ssd_bytes:
                raise SimulationError(f"what is placed on {name} does not fit its SSD")
        for failure in self.failures:
            if failure.node not in nodes or not 0 <= failure.at_s < failure.until_s:
                raise SimulationError(f"{failure} is of no node, or of no stretch of time")
