"""Systems by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sllm_tasks.errors import SimulationError
from sllm_tasks.simulation.policies.locality import SERVERLESSLLM, SHEPHERD
from sllm_tasks.simulation.policies.ours import OURS
from sllm_tasks.simulation.policies.random_gpu import KSERVE, RAY_SERVE, RAY_SERVE_CACHE, SERVERLESS
from sllm_tasks.simulation.system import System

#: In the order of the tables: ours, the paper's, the baselines of its scheduler, those of its whole.
SYSTEMS: Final[Mapping[str, System]] = {
    system.name: system for system in (OURS, SERVERLESSLLM, SHEPHERD, SERVERLESS, RAY_SERVE_CACHE, RAY_SERVE, KSERVE)
}


def system_of(name: str) -> System:
    """Find a system; raises SimulationError."""
    if name not in SYSTEMS:
        raise SimulationError(f"policies are {', '.join(SYSTEMS)}, not {name!r}")
    return SYSTEMS[name]
