"""Systems by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from sllm_tasks.errors import SimulationError
from sllm_tasks.simulation.links import Discipline
from sllm_tasks.simulation.policies.locality import SERVERLESSLLM, SHEPHERD
from sllm_tasks.simulation.policies.ours import OURS
from sllm_tasks.simulation.policies.random_gpu import KSERVE, RAY_SERVE, RAY_SERVE_CACHE, SERVERLESS
from sllm_tasks.simulation.system import System

#: In the order of the tables: ours, the paper's, the baselines of its scheduler, those of its whole.
SYSTEMS: Final[Mapping[str, System]] = {
    system.name: system for system in (OURS, SERVERLESSLLM, SHEPHERD, SERVERLESS, RAY_SERVE_CACHE, RAY_SERVE, KSERVE)
}


#: Ours with the loading orders that it could have, the paper's with our habits, and ours without them: what does what.
VARIANTS: Final[Mapping[str, System]] = {
    system.name: system
    for system in (
        replace(OURS, name="ours-fcfs", loader=replace(OURS.loader, discipline=Discipline.FCFS)),
        replace(OURS, name="ours-sharing", loader=replace(OURS.loader, discipline=Discipline.SHARING)),
        replace(OURS, name="ours-dram-on-demand", fills_dram=False),
        replace(SERVERLESSLLM, name="serverlessllm-kept", keep_alive_s=OURS.keep_alive_s, fills_dram=OURS.fills_dram),
    )
}


def system_of(name: str) -> System:
    """Find a system; raises SimulationError."""
    known = {**SYSTEMS, **VARIANTS}
    if name not in known:
        raise SimulationError(f"policies are {', '.join(known)}, not {name!r}")
    return known[name]
