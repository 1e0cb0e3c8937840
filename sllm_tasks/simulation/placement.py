"""Which checkpoints are on which SSDs, when not all of them fit on each: three answers to be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from sllm_tasks.errors import SimulationError
from sllm_tasks.policy.placement import Shelf, Wanted, spread
from sllm_tasks.simulation.hardware import Hardware
from sllm_tasks.traces.records import Trace

#: The window in which a model's peak is counted.
_PEAK_WINDOW_S = 60.0


class Placement(StrEnum):
    """What decides how many copies a model has."""

    #: Nothing: one after another, until the SSDs are full.
    ROUND_ROBIN = "round-robin"
    #: How often it is asked for.
    POPULARITY = "popularity"
    #: How often it is asked for in its busiest minute: what a forecast that is right would say.
    PEAK = "peak"


def place(hardware: Hardware, trace: Trace, placement: Placement) -> Mapping[str, tuple[str, ...]]:
    """Give every model one copy and then, while there is room, another to the one with the most weight per copy.

    Raises:
        SimulationError: The SSDs have no room for one copy of each.

    """
    weights = _weights(hardware, trace, placement)
    wanted = {
        model.name: Wanted(num_bytes=model.checkpoint_bytes, weight=weights[model.name]) for model in hardware.models
    }
    placed = spread(wanted, [Shelf(node=node.name, capacity_bytes=node.ssd_bytes) for node in hardware.nodes])
    homeless = wanted.keys() - {name for names in placed.values() for name in names}
    if homeless:
        raise SimulationError(f"no SSD has room for {min(homeless)}")
    return placed


def _weights(hardware: Hardware, trace: Trace, placement: Placement) -> Mapping[str, float]:
    names = [model.name for model in hardware.models]
    if placement is Placement.ROUND_ROBIN:
        return dict.fromkeys(names, 1.0)
    counts = Counter(request.model for request in trace.requests)
    if placement is Placement.PEAK:
        windows = Counter((request.model, request.arrival_s // _PEAK_WINDOW_S) for request in trace.requests)
        counts = Counter[str]()
        for (model, _), count in windows.items():
            counts[model] = max(counts[model], count)
    return {name: float(counts[name]) for name in names}
