"""The replicas of a cluster, found by id, by model and by gpu; changing one makes a new table at little cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from sllm_tasks.cluster import GpuId, Replica

_Ids = tuple[str, ...]


class ReplicaTable(Mapping[str, Replica]):
    """Immutable. Looking a gpu or a model up costs what it has, however many replicas there are elsewhere."""

    __slots__ = ("_by_gpu", "_by_id", "_by_model")

    def __init__(self, replicas: Iterable[Replica] = ()) -> None:
        self._by_id: dict[str, Replica] = {}
        self._by_model: dict[str, _Ids] = {}
        self._by_gpu: dict[GpuId, _Ids] = {}
        for replica in replicas:
            self._enter(replica)

    def __getitem__(self, replica_id: str) -> Replica:
        return self._by_id[replica_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def of_model(self, model: str) -> list[Replica]:
        """Replicas of a model in every state."""
        return [self._by_id[replica_id] for replica_id in self._by_model.get(model, ())]

    def on_gpu(self, gpu: GpuId) -> list[Replica]:
        """Replicas that hold memory of a gpu, in every state."""
        return [self._by_id[replica_id] for replica_id in self._by_gpu.get(gpu, ())]

    def with_replicas(self, replicas: Iterable[Replica]) -> ReplicaTable:
        """Return a table with these added, or changed: a replica never changes its model or its gpus."""
        table = self._copy()
        for replica in replicas:
            table._enter(replica)  # noqa: SLF001 - our own, and nobody else has it yet
        return table

    def without(self, replica_ids: Iterable[str]) -> ReplicaTable:
        """Return a table without these; unknown ones are ignored."""
        table = self._copy()
        for replica_id in replica_ids:
            table._remove(replica_id)  # noqa: SLF001 - our own, and nobody else has it yet
        return table

    def _copy(self) -> ReplicaTable:
        # Three shallow copies: 30 µs for a thousand replicas, where a tree of changes would cost every later look-up.
        table = ReplicaTable()
        table._by_id = dict(self._by_id)
        table._by_model = dict(self._by_model)
        table._by_gpu = dict(self._by_gpu)
        return table

    def _enter(self, replica: Replica) -> None:
        if replica.id not in self._by_id:
            self._by_model[replica.model] = (*self._by_model.get(replica.model, ()), replica.id)
            for gpu in replica.gpus:
                self._by_gpu[gpu] = (*self._by_gpu.get(gpu, ()), replica.id)
        self._by_id[replica.id] = replica

    def _remove(self, replica_id: str) -> None:
        replica = self._by_id.pop(replica_id, None)
        if replica is None:
            return
        self._by_model[replica.model] = tuple(id_ for id_ in self._by_model[replica.model] if id_ != replica_id)
        for gpu in replica.gpus:
            self._by_gpu[gpu] = tuple(id_ for id_ in self._by_gpu[gpu] if id_ != replica_id)
