"""Many simulations, on all cores: cells of a preset times systems."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from sllm_tasks.errors import SimulationError
from sllm_tasks.simulation.policies.registry import system_of
from sllm_tasks.simulation.presets import Cell, paper_scenario
from sllm_tasks.simulation.results import EstimateErrors, Samples, Summary
from sllm_tasks.simulation.run import Simulation


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One simulation to be done."""

    cell: Cell
    system: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A system in a cell, over all of its seeds."""

    #: The cell of the first seed.
    cell: Cell
    system: str
    summary: Summary
    #: By seed.
    means_s: tuple[float, ...]
    p99s_s: tuple[float, ...]
    errors: EstimateErrors | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """All results of a preset."""

    preset: str
    seeds: int
    #: Of the first trace; those of the others follow it.
    first_seed: int
    results: tuple[Result, ...]

    def find(self, system: str, **wanted: object) -> list[Result]:
        """Results of a system in cells with these properties."""
        return [
            result
            for result in self.results
            if result.system == system and all(getattr(result.cell, name) == value for name, value in wanted.items())
        ]


def run_study(
    preset: str,
    cells: Iterable[Cell],
    systems: Sequence[str],
    *,
    workers: int,
    progress: Callable[[int, int], None],
) -> Study:
    """Simulate every system in every cell; the results depend on nothing but cells and systems.

    Raises:
        SimulationError: A system is unknown, or a scenario cannot work; before anything runs where that can be told. Or
            a process that simulates was killed.

    """
    tasks = [Task(cell=cell, system=system_of(name).name) for cell in cells for name in systems]
    samples: list[Samples] = []
    # Spawned, so that nothing of this process (threads, open files) is in them.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for done, found in enumerate(pool.map(simulate, tasks), start=1):
                samples.append(found)
                progress(done, len(tasks))
    except BrokenProcessPool as error:
        message = f"one of {workers} processes was killed, for lack of memory perhaps; try fewer --workers"
        raise SimulationError(message) from error
    groups: dict[tuple[str, str], list[tuple[Task, Samples]]] = {}
    for task, found in zip(tasks, samples, strict=True):
        groups.setdefault((task.cell.name, task.system), []).append((task, found))
    results = tuple(_result(group) for group in groups.values())
    seeds = {task.cell.seed for task in tasks}
    return Study(preset=preset, seeds=len(seeds), first_seed=min(seeds), results=results)


def simulate(task: Task) -> Samples:
    """Do one simulation."""
    return Samples.of(Simulation(paper_scenario(task.cell), system_of(task.system)).run())


def _result(group: list[tuple[Task, Samples]]) -> Result:
    task = group[0][0]
    by_seed = [samples for _, samples in group]
    summaries = [Summary.of([samples]) for samples in by_seed]
    return Result(
        cell=task.cell,
        system=task.system,
        summary=Summary.of(by_seed),
        means_s=tuple(summary.mean_s for summary in summaries),
        p99s_s=tuple(summary.p99_s for summary in summaries),
        errors=EstimateErrors.of(by_seed),
    )
