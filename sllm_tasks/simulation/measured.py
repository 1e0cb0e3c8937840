"""A real cluster as hardware: its rates and times are those that estimators have learned from its ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from sllm_tasks.cluster import Gpu, ModelInfo, NodeInfo, Tier
from sllm_tasks.estimators.base import Estimates
from sllm_tasks.estimators.line import Line
from sllm_tasks.simulation.hardware import GpuKind, Hardware, MeasuredModel, ModelHardware, NodeHardware

#: Of a load, what moving the bytes takes at least: a line through measurements may say that all of it is the start.
_LEAST_MOVING = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCluster:
    """What is there, as the live state and the ledger tell, and what was learned about it."""

    nodes: Sequence[NodeInfo]
    gpus: Sequence[Gpu]
    models: Sequence[ModelInfo]
    estimates: Estimates
    #: Of a typical prompt.
    prompt_tokens: int

    @property
    def load_start_s(self) -> float:
        """What a load takes besides moving bytes, on average over the nodes: that of the tier with the least."""
        return fmean(
            min(self._load_line(node.name, tier).start_s for tier in (Tier.SSD, Tier.DRAM)) for node in self.nodes
        )

    def hardware(self) -> Hardware:
        """Describe it so that a load of mean size and a step of any batch take what the estimators say."""
        return Hardware(
            nodes=tuple(map(self._node, self.nodes)),
            models=tuple(map(self._model, self.models)),
        )

    def _node(self, node: NodeInfo) -> NodeHardware:
        gpus = [gpu for gpu in self.gpus if gpu.id.node == node.name]
        return NodeHardware(
            name=node.name,
            gpu=GpuKind(
                name=gpus[0].device,
                memory_bytes=gpus[0].capacity_bytes,
                # Steps are measured, so that nothing asks for it.
                memory_bytes_per_s=1.0,
                pcie_bytes_per_s=self._rate(node.name, Tier.DRAM),
            ),
            num_gpus=len(gpus),
            dram_bytes=max(1, node.dram.capacity_bytes if node.dram is not None else 0),
            ssd_bytes=node.ssd.capacity_bytes if node.ssd is not None else sum(map(_num_bytes, self.models)),
            ssd_bytes_per_s=self._rate(node.name, Tier.SSD),
            network_bytes_per_s=self._rate(node.name, Tier.REMOTE),
        )

    def _model(self, model: ModelInfo) -> ModelHardware:
        step = _line(lambda batch: self.estimates.token_time(model.name, batch).seconds, (1, 2))
        prefill_s = self.estimates.first_token(model.name, self.prompt_tokens).seconds
        return ModelHardware(
            name=model.name,
            checkpoint_bytes=_num_bytes(model),
            num_gpus=model.num_gpus,
            # What a step reads is in its time.
            kv_bytes_per_token=1,
            context=model.context,
            measured=MeasuredModel(
                bytes_per_gpu=model.bytes_per_gpu, step=step, prefill_ratio=prefill_s / self.prompt_tokens / step.at(1)
            ),
        )

    def _rate(self, node: str, tier: Tier) -> float:
        load_s = self._load_line(node, tier).at(self._mean_bytes)
        return self._mean_bytes / max(load_s - self.load_start_s, _LEAST_MOVING * load_s)

    def _load_line(self, node: str, tier: Tier) -> Line:
        sizes = (self._mean_bytes, 2 * self._mean_bytes)
        return _line(lambda num_bytes: self.estimates.loading(node, tier, num_bytes).seconds, sizes)

    @property
    def _mean_bytes(self) -> int:
        return round(fmean(map(_num_bytes, self.models)))


def _line(time_s: Callable[[int], float], sizes: tuple[int, int]) -> Line:
    """Find the line that estimates lie on by two of them."""
    small, large = sizes
    per_unit_s = (time_s(large) - time_s(small)) / (large - small)
    return Line(start_s=time_s(small) - per_unit_s * small, per_unit_s=per_unit_s)


def _num_bytes(model: ModelInfo) -> int:
    return model.bytes_through(Tier.SSD)
