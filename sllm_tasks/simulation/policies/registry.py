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


#: Ours with idle replicas that stay for a fixed time, for as long as each model's past says, and that also come
#: before their jobs; a second of waiting is then worth 20 seconds of a gpu, or as many as the name ends with.
KEEP_ALIVES: Final = (
    *(replace(OURS, name=f"ours-kept-{keep_s:g}s", keep_alive_s=keep_s) for keep_s in (0.5, 60.0, 600.0)),
    replace(OURS, name="ours-auto", keep_alive_s=None),
    replace(OURS, name="ours-auto-prewarm", keep_alive_s=None, prewarms=True),
    *(
        replace(OURS, name=f"ours-auto-prewarm-{worth:g}", keep_alive_s=None, prewarms=True, waiting_worth=worth)
        for worth in (100.0, 500.0)
    ),
)

#: Ours with the loading orders that it could have, the paper's with our habits, and ours without them: what does what.
VARIANTS: Final[Mapping[str, System]] = {
    system.name: system
    for system in (
        replace(OURS, name="ours-fcfs", loader=replace(OURS.loader, discipline=Discipline.FCFS)),
        replace(OURS, name="ours-sharing", loader=replace(OURS.loader, discipline=Discipline.SHARING)),
        replace(OURS, name="ours-dram-on-demand", fills_dram=False),
        *KEEP_ALIVES,
        replace(SERVERLESSLLM, name="serverlessllm-kept", keep_alive_s=OURS.keep_alive_s, fills_dram=OURS.fills_dram),
    )
}


def compared_in(preset: str) -> tuple[str, ...]:
    """Names of the systems that a preset is about."""
    return tuple(system.name for system in KEEP_ALIVES) if preset == "keep-alive" else tuple(SYSTEMS)


def system_of(name: str) -> System:
    """Find a system; raises SimulationError."""
    known = {**SYSTEMS, **VARIANTS}
    if name not in known:
        raise SimulationError(f"policies are {', '.join(known)}, not {name!r}")
    return known[name]
