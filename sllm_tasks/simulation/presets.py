"""Scenarios with a name: the paper's cluster and workloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sllm_tasks.errors import SimulationError
from sllm_tasks.simulation.hardware import A40, Hardware, NodeHardware, opt_models
from sllm_tasks.simulation.placement import Placement, place
from sllm_tasks.simulation.scenario import Scenario
from sllm_tasks.traces.generate import Recipe, generate

#: Models of each size in the paper's cluster runs.
PAPER_MODELS: Final = {"opt-6.7b": 32, "opt-13b": 16, "opt-30b": 8}
PAPER_DATA: Final = ("gsm8k", "sharegpt")
PAPER_RATES: Final = (0.2, 0.8, 1.4)
#: Traces of each cell: of five of them, the P99 of two systems may come in either order (docs/evaluation.md, How many
#: traces).
NUM_TRACES: Final = 20
#: Requests of one trace, whatever its rate: with the traces, P99 is made of dozens of them.
_NUM_REQUESTS: Final = 420
_NUM_LONG_REQUESTS: Final = 1_440
_NUM_QUICK_REQUESTS: Final = 120
#: The paper does not say how many requests a model instance serves at once. It must be several: one OPT-30B job with
#: an answer of ShareGPT's length takes 50 s, so that eight replicas serving one each would finish 0.16 jobs per
#: second, where the paper reports 89 % finished.
PAPER_MAX_JOBS: Final = 8

#: Of a node's DRAM, what its chunk pool may take.
_POOL_SHARE: Final = 0.8
_SSD_BYTES: Final = 2_000_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One scenario of a preset."""

    size: str
    num_models: int
    data: str
    rate_per_s: float
    seed: int = 0
    gpus_per_node: int = 4
    max_jobs: int = PAPER_MAX_JOBS
    #: None: every checkpoint on every SSD. Otherwise each SSD holds half of the catalogue, and this says which.
    placement: Placement | None = None
    #: Bursts of the cluster, spread over models by popularity, instead of bursts of each model. Which of the two the
    #: paper means it does not say; only with the former does its own system start jobs as fast as it reports.
    mixed_bursts: bool = True
    #: Coefficient of variation of the gaps between requests; the paper's. None: of each model that of some application
    #: of Azure Functions.
    cv: float | None = 8.0
    num_requests: int = _NUM_REQUESTS

    @property
    def name(self) -> str:
        """Without the seed: cells that differ in nothing else belong together."""
        extra = "" if self.gpus_per_node == 4 else f", {self.gpus_per_node} gpus per node"
        extra += "" if self.max_jobs == PAPER_MAX_JOBS else f", {self.max_jobs} jobs per replica"
        extra += "" if self.mixed_bursts else ", bursts per model"
        extra += "" if self.cv == 8.0 else ", each like some application" if self.cv is None else f", cv {self.cv:g}"
        extra += "" if self.placement is None else f", {self.placement}"
        return f"{self.num_models} x {self.size}, {self.data}, {self.rate_per_s:g}/s{extra}"


def paper_node(name: str, *, num_gpus: int = 4, ssd_bytes: int = _SSD_BYTES) -> NodeHardware:
    """A server of the paper's test bed (ii): A40 gpus, 512 GB of DRAM, one PCIe 4.0 NVMe disk of 2 TB, 10 Gbit/s.

    The disk reads half of what the paper's pair of such disks does together, 12 GB/s.
    """
    return NodeHardware(
        name=name,
        gpu=A40,
        num_gpus=num_gpus,
        dram_bytes=round(512e9 * _POOL_SHARE),
        ssd_bytes=ssd_bytes,
        ssd_bytes_per_s=6e9,
        network_bytes_per_s=1.25e9,
    )


def paper_scenario(cell: Cell) -> Scenario:
    """Make the scenario of a cell."""
    models = opt_models(cell.size, cell.num_models)
    catalogue_bytes = sum(model.checkpoint_bytes for model in models)
    ssd_bytes = _SSD_BYTES if cell.placement is None else catalogue_bytes // 2
    nodes = tuple(paper_node(f"node{number}", num_gpus=cell.gpus_per_node, ssd_bytes=ssd_bytes) for number in range(4))
    hardware = Hardware(nodes=nodes, models=models)
    names = tuple(model.name for model in models)
    recipe = Recipe(
        name=cell.name,
        seed=cell.seed,
        duration_s=cell.num_requests / cell.rate_per_s,
        rate_per_s=cell.rate_per_s,
        models=names,
        lengths=cell.data,
        mixed_bursts=cell.mixed_bursts,
        cv=cell.cv,
    )
    trace = generate(recipe)
    placed = {node.name: names for node in nodes}
    if cell.placement is not None:
        placed = dict(place(hardware, trace, cell.placement))
    return Scenario(
        name=cell.name,
        hardware=hardware,
        trace=trace,
        seed=cell.seed,
        max_jobs=cell.max_jobs,
        placement=placed,
    )


def cells_of(preset: str, *, seeds: Sequence[int], is_quick: bool) -> tuple[Cell, ...]:
    """The cells of a preset, each with a trace of every seed; raises SimulationError."""
    if preset not in PRESETS:
        raise SimulationError(f"presets are {', '.join(PRESETS)}, not {preset!r}")
    cells = PRESETS[preset]()
    if is_quick:
        cells = (replace(cell, num_requests=_NUM_QUICK_REQUESTS) for cell in cells)
    return tuple(replace(cell, seed=seed) for cell in cells for seed in seeds)


def _paper() -> Iterator[Cell]:
    """Figures 8 to 11."""
    for size, num_models in PAPER_MODELS.items():
        for data in PAPER_DATA:
            for rate_per_s in PAPER_RATES:
                yield Cell(size=size, num_models=num_models, data=data, rate_per_s=rate_per_s)


def _one_at_a_time() -> Iterator[Cell]:
    """The same with one job per replica."""
    return (replace(cell, max_jobs=1) for cell in _paper())


def _model_bursts() -> Iterator[Cell]:
    """The same with bursts of each model by itself."""
    return (replace(cell, mixed_bursts=False) for cell in _paper())


def _steady() -> Iterator[Cell]:
    """The same with arrivals that do not come in bursts."""
    return (replace(cell, cv=1.0) for cell in _paper())


def _gpus() -> Iterator[Cell]:
    """Figure 12a: gpus per node."""
    for gpus_per_node in (1, 2, 3, 4):
        yield Cell(size="opt-6.7b", num_models=32, data="gsm8k", rate_per_s=0.8, gpus_per_node=gpus_per_node)


def _models() -> Iterator[Cell]:
    """Figure 12b: number of models."""
    for num_models in (16, 32, 48, 64):
        yield Cell(size="opt-6.7b", num_models=num_models, data="gsm8k", rate_per_s=0.8)


def _placements() -> Iterator[Cell]:
    """Where checkpoints should be, when an SSD holds half of them."""
    for rate_per_s in (0.8, 1.4):
        for placement in Placement:
            yield Cell(size="opt-6.7b", num_models=64, data="gsm8k", rate_per_s=rate_per_s, placement=placement)


def _keep_alives() -> Iterator[Cell]:
    """How long idle replicas should stay, when most models are asked for now and then: five hours."""
    yield Cell(
        size="opt-6.7b",
        num_models=32,
        data="gsm8k",
        rate_per_s=0.08,
        mixed_bursts=False,
        cv=None,
        num_requests=_NUM_LONG_REQUESTS,
    )


PRESETS: Final[Mapping[str, Callable[[], Iterator[Cell]]]] = {
    "paper": _paper,
    "paper-one-at-a-time": _one_at_a_time,
    "paper-model-bursts": _model_bursts,
    "paper-steady": _steady,
    "paper-gpus": _gpus,
    "paper-models": _models,
    "placements": _placements,
    "keep-alive": _keep_alives,
}
