"""Loads: from the tier where the checkpoint is, through the links on the way, to the gpus of a replica."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from sllm_tasks.cluster import Tier
from sllm_tasks.estimators.facts import LoadFact
from sllm_tasks.simulation.clock import Clock, Timer
from sllm_tasks.simulation.fleet import SimReplica
from sllm_tasks.simulation.links import Link, Transfer
from sllm_tasks.simulation.nodes import Node
from sllm_tasks.simulation.system import Loader


class _Load:
    """A load under way: its transfers on one link after another."""

    def __init__(self, replica: SimReplica, done: Callable[[SimReplica], None]) -> None:
        self.replica = replica
        self.done = done
        self.transfers: list[tuple[Link, Transfer]] = []
        self.num_missing = 0
        self.moved_s = 0.0
        self.start_s = 0.0
        self.timer: Timer | None = None
        #: Loads of the same checkpoint on the same node, whose bytes are these.
        self.followers: list[_Load] = []

    def remaining_bytes(self) -> int:
        """Of the gpu that has most to come: out of DRAM each has a way of its own."""
        return round(max(max(0.0, transfer.remaining_bytes) for _, transfer in self.transfers))


class Loading:
    """All loads of a simulation; what they took is told to `learn`."""

    def __init__(
        self, clock: Clock, loader: Loader, learn: Callable[[LoadFact], None], *, draw_ratio: Callable[[], float]
    ) -> None:
        """`draw_ratio` says for each load what it takes in units of what the hardware says, but for its queues."""
        self._clock = clock
        self._loader = loader
        self._learn = learn
        self._draw_ratio = draw_ratio
        self._loads: dict[str, _Load] = {}
        # Of gpus that load another replica, oldest first.
        self._queued: dict[str, tuple[SimReplica, Callable[[SimReplica], None]]] = {}

    def begin(self, replica: SimReplica, done: Callable[[SimReplica], None]) -> None:
        """Load a replica when its gpus have loaded what came before it; `done` is called when it is ready."""
        self._queued[replica.id] = (replica, done)
        self._go_on()

    def _go_on(self) -> None:
        """Begin the loads whose gpus load nothing else: a worker loads one replica after the other."""
        busy = {gpu for load in self._loads.values() for gpu in load.replica.gpus}
        for replica, done in list(self._queued.values()):
            if busy.isdisjoint(replica.gpus):
                del self._queued[replica.id]
                self._begin(replica, done)
            busy.update(replica.gpus)

    def _begin(self, replica: SimReplica, done: Callable[[SimReplica], None]) -> None:
        load = self._loads[replica.id] = _Load(replica, done)
        node, checkpoint = replica.node, replica.info.checkpoint
        replica.find_source()
        node.dram.touch(checkpoint)
        node.ssd.touch(checkpoint)
        leader = self._reader_of(load)
        if leader is not None:
            leader.followers.append(load)
        elif replica.tier is Tier.DRAM:
            self._send_to_gpus(load)
        elif replica.tier is Tier.SSD:
            self._send(load, node.disk, replica.model.checkpoint_bytes, lambda: self._start_up(load))
        elif self._loader.downloads_first:
            self._send(load, node.network, replica.model.checkpoint_bytes, lambda: self._downloaded(load), cap=False)
        else:
            self._send(load, node.network, replica.model.checkpoint_bytes, lambda: self._start_up(load))

    def cancel(self, replica: SimReplica) -> None:
        """Give a load up; harmless when it is over."""
        self._queued.pop(replica.id, None)
        load = self._loads.pop(replica.id, None)
        if load is None:
            return
        for other in self._loads.values():
            if load in other.followers:
                other.followers.remove(load)
        for link, transfer in load.transfers:
            link.cancel(transfer)
        if load.timer is not None:
            load.timer.cancel()
        # Whoever shared its read starts over.
        for follower in load.followers:
            self._begin(follower.replica, follower.done)
        self._go_on()

    def settle(self) -> None:
        """Note on every loading replica how many bytes are still to come."""
        leaders = [load for load in self._loads.values() if load.transfers]
        for load in leaders:
            for link, _ in load.transfers:
                link.settle()
            for each in (load, *load.followers):
                # What is shared is counted once, with the load that reads it.
                each.replica.remaining_bytes = load.remaining_bytes() if each is load else 0

    def _reader_of(self, load: _Load) -> _Load | None:
        """The load whose bytes this one can share: one pool serves all gpus of a node."""
        if not self._loader.keeps_in_dram or load.replica.tier is Tier.DRAM:
            return None
        for other in self._loads.values():
            is_same = other.replica.node is load.replica.node and other.replica.model is load.replica.model
            if other is not load and is_same and other.transfers and other.replica.tier is not Tier.DRAM:
                return other
        return None

    def _downloaded(self, load: _Load) -> None:
        # What was written a moment ago is in the page cache, but these loaders do not read it faster for that.
        self._send(load, load.replica.node.disk, load.replica.model.checkpoint_bytes, lambda: self._start_up(load))

    def _send_to_gpus(self, load: _Load) -> None:
        replica = load.replica
        part_bytes = replica.model.checkpoint_bytes / replica.model.num_gpus
        load.num_missing = len(replica.gpus)

        def arrived() -> None:
            load.num_missing -= 1
            if load.num_missing == 0:
                self._start_up(load)

        for gpu in replica.gpus:
            link = replica.node.lanes[gpu]
            transfer = link.send(part_bytes, arrived, max_bytes_per_s=self._loader.max_bytes_per_s)
            load.transfers.append((link, transfer))

    def _send(self, load: _Load, link: Link, num_bytes: int, done: Callable[[], None], *, cap: bool = True) -> None:
        """Move bytes over the slowest link on the way; the ones behind it keep up."""
        lanes_bytes_per_s = sum(load.replica.node.lanes[gpu].bytes_per_s for gpu in load.replica.gpus)
        most = min(self._loader.max_bytes_per_s, lanes_bytes_per_s) if cap else float("inf")
        load.moved_s += sum(transfer.served_s for _, transfer in load.transfers)
        load.transfers = [(link, link.send(num_bytes, done, max_bytes_per_s=most))]

    def _start_up(self, load: _Load) -> None:
        load.moved_s += max(transfer.served_s for _, transfer in load.transfers)
        load.transfers = []
        for each in (load, *load.followers):
            each.moved_s = load.moved_s
            each.replica.remaining_bytes = 0
            each.start_s = max(0.0, self._draw_ratio() * (load.moved_s + self._loader.start_s) - load.moved_s)
            each.timer = self._clock.after(each.start_s, partial(self._end, each))
        load.followers = []

    def _end(self, load: _Load) -> None:
        replica = load.replica
        del self._loads[replica.id]
        replica.load_s = load.moved_s + load.start_s
        self._keep(replica, replica.tier)
        fact = LoadFact(
            node=replica.node.name,
            tier=replica.tier,
            num_bytes=replica.info.bytes_through(replica.tier),
            seconds=replica.load_s,
        )
        self._learn(fact)
        self._go_on()
        load.done(replica)

    def _keep(self, replica: SimReplica, tier: Tier) -> None:
        checkpoint, num_bytes = replica.info.checkpoint, replica.model.checkpoint_bytes
        if tier is Tier.REMOTE and self._loader.keeps_on_ssd:
            replica.node.hold(Tier.SSD, checkpoint, num_bytes)
        if self._loader.keeps_in_dram:
            replica.node.hold(Tier.DRAM, checkpoint, num_bytes)


class Prefetching:
    """Fills the DRAM of a node from its SSD, behind everything that somebody waits for, one checkpoint at a time."""

    def __init__(self, node: Node, wanted: Sequence[tuple[str, int]]) -> None:
        self._node = node
        self._wanted = list(reversed(wanted))

    def go_on(self) -> None:
        """Read the next checkpoint that fits beside those that are there; call it once to begin."""
        while self._wanted:
            checkpoint, num_bytes = self._wanted.pop()
            has_room = num_bytes <= self._node.dram.capacity_bytes - self._node.dram.used_bytes
            if has_room and checkpoint not in self._node.dram and checkpoint in self._node.ssd:
                self._node.disk.send(num_bytes, partial(self._arrived, checkpoint, num_bytes), is_background=True)
                return

    def _arrived(self, checkpoint: str, num_bytes: int) -> None:
        if num_bytes <= self._node.dram.capacity_bytes - self._node.dram.used_bytes:
            self._node.hold(Tier.DRAM, checkpoint, num_bytes)
        self.go_on()
