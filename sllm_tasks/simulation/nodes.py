"""Nodes while they are simulated: links, and what their tiers hold."""

from __future__ import annotations

from collections.abc import Iterable

from sllm_tasks.cluster import GpuId, NodeInfo, Tier, TierUsage
from sllm_tasks.simulation.clock import Clock
from sllm_tasks.simulation.hardware import NodeHardware
from sllm_tasks.simulation.links import Discipline, Link


class Store:
    """Checkpoints in a tier; the least recently used go first, those that are kept never."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self._sizes: dict[str, int] = {}
        self._kept: set[str] = set()

    def __contains__(self, checkpoint: object) -> bool:
        return checkpoint in self._sizes

    @property
    def checkpoints(self) -> frozenset[str]:
        """Everything it holds."""
        return frozenset(self._sizes)

    @property
    def used_bytes(self) -> int:
        """What that takes."""
        return sum(self._sizes.values())

    def put(self, checkpoint: str, num_bytes: int, *, keep: bool = False) -> None:
        """Store a checkpoint as the most recently used one; one that cannot fit is left out."""
        self._sizes.pop(checkpoint, None)
        old = (name for name in self._sizes if name not in self._kept)
        victims: list[str] = []
        free_bytes = self.capacity_bytes - self.used_bytes
        while free_bytes < num_bytes:
            victim = next(old, None)
            if victim is None:
                return
            victims.append(victim)
            free_bytes += self._sizes[victim]
        for victim in victims:
            del self._sizes[victim]
        self._sizes[checkpoint] = num_bytes
        if keep:
            self._kept.add(checkpoint)

    def touch(self, checkpoint: str) -> None:
        """Note a use."""
        if checkpoint in self._sizes:
            self._sizes[checkpoint] = self._sizes.pop(checkpoint)

    def clear(self) -> None:
        """Forget everything, as DRAM does."""
        self._sizes.clear()
        self._kept.clear()


class Node:
    """A server."""

    def __init__(self, clock: Clock, hardware: NodeHardware, discipline: Discipline) -> None:
        self.hardware = hardware
        self.name = hardware.name
        self.gpus = tuple(GpuId(self.name, index) for index in range(hardware.num_gpus))
        self.is_up = True
        self.dram = Store(hardware.dram_bytes)
        self.ssd = Store(hardware.ssd_bytes)
        self.disk = Link(clock, hardware.ssd_bytes_per_s, discipline)
        self.network = Link(clock, hardware.network_bytes_per_s, discipline)
        self.lanes = {gpu: Link(clock, hardware.gpu.pcie_bytes_per_s, discipline) for gpu in self.gpus}
        self._info: NodeInfo | None = None

    def tier_of(self, checkpoint: str) -> Tier:
        """The slowest tier that a load passes."""
        if checkpoint in self.dram:
            return Tier.DRAM
        return Tier.SSD if checkpoint in self.ssd else Tier.REMOTE

    def hold(self, tier: Tier, checkpoint: str, num_bytes: int) -> None:
        """Put a checkpoint into a tier."""
        (self.dram if tier is Tier.DRAM else self.ssd).put(checkpoint, num_bytes)
        self._info = None

    def place(self, checkpoints: Iterable[tuple[str, int]]) -> None:
        """Put checkpoints on the SSD for good."""
        for checkpoint, num_bytes in checkpoints:
            self.ssd.put(checkpoint, num_bytes, keep=True)
        self._info = None

    def reboot(self) -> None:
        """Lose what DRAM held."""
        self.dram.clear()
        self._info = None

    @property
    def info(self) -> NodeInfo:
        """The node as policies see it."""
        if self._info is None:
            ssd, dram = self.ssd.checkpoints, self.dram.checkpoints
            self._info = NodeInfo(
                name=self.name,
                # What is in DRAM came through the SSD or past it; either way a load finds it.
                checkpoints=ssd | dram,
                in_dram=dram,
                ssd=TierUsage(capacity_bytes=self.ssd.capacity_bytes, used_bytes=self.ssd.used_bytes),
                dram=TierUsage(capacity_bytes=self.dram.capacity_bytes, used_bytes=self.dram.used_bytes),
                url=f"http://{self.name}",
                gpus=self.gpus,
            )
        return self._info
