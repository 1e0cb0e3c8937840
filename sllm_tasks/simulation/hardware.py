"""What is simulated: gpus, nodes and models with their sizes and rates, and where each number is from.

Decoding reads all weights once per step, so its time is bytes over memory bandwidth, times what engines reach of that;
models over several gpus run their layers one gpu after another, as the paper's engine does. Prefill: the paper says
that a thousand tokens are recomputed in about the time of a hundred new ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from sllm_tasks.errors import SimulationError
from sllm_tasks.estimators.line import Line

#: Of the memory bandwidth that decoding reaches: our assumption, between what transformers and vLLM show.
DECODE_EFFICIENCY: Final = 0.7
#: Time of a prefilled token over that of a decoded one (ServerlessLLM section 5.2).
PREFILL_RATIO: Final = 0.1
#: Tokens of a job in the middle of its run, whose cache each step reads besides the weights.
_MEAN_TOKENS: Final = 512
#: What an engine needs on each gpu besides weights and caches.
_WORKSPACE_BYTES: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuKind:
    """A kind of gpu."""

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    #: From pinned DRAM.
    pcie_bytes_per_s: float

    def __post_init__(self) -> None:
        _check_positive(self, f"gpu {self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHardware:
    """A server."""

    name: str
    gpu: GpuKind
    num_gpus: int
    #: The chunk pool, for checkpoints.
    dram_bytes: int
    ssd_bytes: int
    ssd_bytes_per_s: float
    network_bytes_per_s: float

    def __post_init__(self) -> None:
        _check_positive(self, f"node {self.name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredModel:
    """What a real cluster has shown of a model."""

    bytes_per_gpu: int
    #: Time of a decode step, by the number of jobs in it.
    step: Line
    #: Time of a prefilled token over that of a decoded one.
    prefill_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelHardware:
    """What a model asks of the hardware."""

    name: str
    checkpoint_bytes: int
    num_gpus: int
    kv_bytes_per_token: int
    #: Tokens of prompt and answer of one job.
    context: int
    #: None: everything follows from its sizes.
    measured: MeasuredModel | None = None

    def __post_init__(self) -> None:
        _check_positive(self, f"model {self.name}")

    @property
    def prefill_ratio(self) -> float:
        """Time of a prefilled token over that of a decoded one."""
        return PREFILL_RATIO if self.measured is None else self.measured.prefill_ratio

    def bytes_per_gpu(self, max_jobs: int) -> int:
        """Weights, the caches of so many jobs, and workspace."""
        if self.measured is not None:
            return self.measured.bytes_per_gpu
        cache_bytes = max_jobs * self.context * self.kv_bytes_per_token
        return math.ceil((self.checkpoint_bytes + cache_bytes) / self.num_gpus) + _WORKSPACE_BYTES

    def step_s(self, gpu: GpuKind, batch: int) -> float:
        """Time of one decode step of so many jobs."""
        if self.measured is not None:
            return self.measured.step.at(batch)
        read_bytes = self.checkpoint_bytes + batch * _MEAN_TOKENS * self.kv_bytes_per_token
        return read_bytes / (gpu.memory_bytes_per_s * DECODE_EFFICIENCY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """A cluster and its models; raises SimulationError when they cannot work together."""

    nodes: tuple[NodeHardware, ...]
    models: tuple[ModelHardware, ...]

    def __post_init__(self) -> None:
        for kind, names in (("node", [node.name for node in self.nodes]), ("model", [m.name for m in self.models])):
            if not names:
                raise SimulationError(f"there is no {kind}")
            if len(set(names)) != len(names):
                raise SimulationError(f"two {kind}s have the same name")

    def check_models_fit(self, max_jobs: int) -> None:
        """Raise SimulationError if a model is larger than every gpu, or has more parts than any node has gpus."""
        for model in self.models:
            num_bytes = model.bytes_per_gpu(max_jobs)
            if not any(node.num_gpus >= model.num_gpus and node.gpu.memory_bytes >= num_bytes for node in self.nodes):
                raise SimulationError(
                    f"model {model.name} needs {num_bytes / 1e9:.1f} GB on each of {model.num_gpus} gpus of one node; "
                    "no node has that"
                )

    @property
    def models_by_name(self) -> Mapping[str, ModelHardware]:
        """Models found by name."""
        return {model.name: model for model in self.models}


def _check_positive(record: GpuKind | NodeHardware | ModelHardware, what: str) -> None:
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
            raise SimulationError(f"{what}: {field.name} is a positive number, not {value!r}")
    if not record.name:
        raise SimulationError("everything has a name")


#: NVIDIA A40 data sheet: 48 GB of GDDR6 at 696 GB/s, PCIe 4.0 x16; copies from pinned memory at the 25 GB/s that the
#: scheduler of ServerlessLLM assumes.
A40: Final = GpuKind(name="a40", memory_bytes=48_000_000_000, memory_bytes_per_s=696e9, pcie_bytes_per_s=25e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    checkpoint_bytes: int
    num_gpus: int
    kv_bytes_per_token: int


#: Two bytes per parameter; cache: two tensors per layer of the model's width (config.json of facebook/opt-*). 30B is
#: spread over two gpus of 48 GB.
_OPT: Final[Mapping[str, _Size]] = {
    "opt-6.7b": _Size(checkpoint_bytes=13_317_000_000, num_gpus=1, kv_bytes_per_token=2 * 32 * 4096 * 2),
    "opt-13b": _Size(checkpoint_bytes=25_707_000_000, num_gpus=1, kv_bytes_per_token=2 * 40 * 5120 * 2),
    "opt-30b": _Size(checkpoint_bytes=59_949_000_000, num_gpus=2, kv_bytes_per_token=2 * 48 * 7168 * 2),
}


def opt_models(size: str, count: int) -> tuple[ModelHardware, ...]:
    """So many models of one size of OPT, each with a checkpoint of its own; raises SimulationError."""
    if size not in _OPT:
        raise SimulationError(f"sizes are {', '.join(_OPT)}, not {size!r}")
    found = _OPT[size]
    return tuple(
        ModelHardware(
            name=f"{size}-{number:03}",
            checkpoint_bytes=found.checkpoint_bytes,
            num_gpus=found.num_gpus,
            kv_bytes_per_token=found.kv_bytes_per_token,
            context=2_048,
        )
        for number in range(count)
    )
