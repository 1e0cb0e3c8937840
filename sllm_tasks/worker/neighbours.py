"""The other gpus of a node, as the leader of a replica over several needs them.

A replica's leader opens the devices of all its gpus itself; the workers that own the others hold nothing of it. But
they lead replicas of their own there, and only they can free what was closed for the new one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from sllm_tasks.cluster import GpuId, Replica, ReplicaState
from sllm_tasks.errors import OutOfMemoryError, StaleError
from sllm_tasks.livestate import LiveState

#: A leader that lives frees within seconds of being asked, unless it is in the middle of a load; a dead one is given
#: up by the cluster within six.
_FREED_WITHIN_S = 60.0
_LOOK_S = 0.02


class Neighbours:
    """Of one gpu; safe to use from many threads."""

    def __init__(self, live: LiveState, gpu: GpuId, device: str, ask_to_unload: Callable[[GpuId, str], None]) -> None:
        """`ask_to_unload` sends a message to the leader of a closed replica."""
        self._live = live
        self._gpu = gpu
        self._device = device
        self._ask_to_unload = ask_to_unload

    def devices(self, replica: Replica) -> tuple[str, ...]:
        """Name the devices of a replica's gpus, its leader's first.

        Raises StaleError when one of them is gone, and OutOfMemoryError when this process cannot tell them apart.
        """
        devices = tuple(self._device if gpu == self._gpu else self._device_of(gpu) for gpu in replica.gpus)
        gpus = [device for device in devices if device.startswith("cuda")]
        if len(set(gpus)) < len(gpus):
            raise OutOfMemoryError(
                f"a replica over {len(gpus)} gpus of node {self._gpu.node} needs a worker that sees all of them; its "
                f"workers call theirs {', '.join(gpus)}: start them without a CUDA_VISIBLE_DEVICES for each"
            )
        return devices

    def closed_here(self, replica: Replica) -> list[str]:
        """Closed replicas on a replica's gpus that this worker has to free."""
        return sorted({closed.id for closed in self._closed(replica) if closed.leader == self._gpu})

    def wait_for_memory(self, replica: Replica, cancel: threading.Event) -> None:
        """Have others free what they still hold on a replica's gpus, and wait until they have.

        Hold no lock that a neighbour might wait for: it may be about to load over this gpu as well.
        Raises StaleError when the replica is given up meanwhile, or nobody frees the memory.
        """
        held = {closed.id: closed for closed in self._closed(replica) if closed.leader != self._gpu}
        for closed in held.values():
            self._ask_to_unload(closed.leader, closed.id)
        deadline_s = time.monotonic() + _FREED_WITHIN_S
        while held := {id_: closed for id_, closed in held.items() if self._live.fleet.replica(id_) is not None}:
            order = self._live.fleet.replica(replica.id)
            if cancel.is_set() or order is None or order.replica.state is not ReplicaState.LOADING:
                raise StaleError(f"replica {replica.id} was given up before there was memory for it")
            if time.monotonic() > deadline_s:
                names = ", ".join(f"{closed.id} of gpu {closed.leader}" for closed in held.values())
                raise StaleError(f"replica {replica.id} finds no memory: {names} was not freed")
            cancel.wait(_LOOK_S)

    def _closed(self, replica: Replica) -> Sequence[Replica]:
        return [closed for gpu in replica.gpus for closed in self._live.fleet.closed_replicas(gpu)]

    def _device_of(self, gpu_id: GpuId) -> str:
        gpu = self._live.fleet.gpu(gpu_id)
        if gpu is None:
            raise StaleError(f"gpu {gpu_id} is gone")
        return gpu.device
