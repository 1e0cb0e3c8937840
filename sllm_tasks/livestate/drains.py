"""What operators have drained, as the live state knows it: gpus whose workers start again stay drained."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from redis import Redis

from sllm_tasks.cluster import GpuId
from sllm_tasks.livestate.connection import PREFIX, text, translated
from sllm_tasks.livestate.scripts import Scripts

#: No name of a node.
_VERSION = ".version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drains:
    """Nodes and gpus that are to take no work."""

    names: frozenset[str] = frozenset()
    #: Goes with a change of them; empty: nobody has said yet, for example since the live state was lost.
    version: str = ""

    def covers(self, gpu: GpuId) -> bool:
        """Whether a gpu is drained, by itself or with its node."""
        return not self.names.isdisjoint({gpu.node, str(gpu)})


class DrainStore:
    """The ledger is the truth; whoever finds that the two differ says so here."""

    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    def look(self) -> Drains:
        """Read what is drained."""
        with translated():
            found = {text(name): text(value) for name, value in self._redis.hgetall(f"{PREFIX}drains").items()}
        version = found.pop(_VERSION, "")
        return Drains(names=frozenset(found), version=version)

    def set(self, names: Collection[str], seen_version: str) -> None:
        """Drain these and take all others back; without effect if that was changed since the caller looked."""
        with translated():
            self._scripts["set_drains"](args=[seen_version, *sorted(names)])

    def hand_back(self, job_id: str, gpu: GpuId) -> bool:
        """Let a job that has no token yet wait for another place than that gpu; False if it is not so any more."""
        with translated():
            return bool(self._scripts["hand_back"](args=[job_id, str(gpu)]))
