"""How many copies of each checkpoint there should be, and on which nodes, when not all fit everywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sllm_tasks.cluster import NodeInfo, Tier

#: A checkpoint stays where it is unless another has so many times its weight: moving copies about for a small gain
#: costs more than it is worth.
_STAYS = 2.0
#: What copies may take of an SSD, the rest being for imports, and what may be kept in DRAM, the rest being for loads.
_SSD_SHARE, _DRAM_SHARE = 0.9, 0.5
#: Jobs of a day that a copy has to bear to be worth its transfer: one an hour.
_WORTH = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A checkpoint to be placed."""

    num_bytes: int
    #: How often it is asked for. Bytes do not count: a large checkpoint takes more room, and spares as much more time.
    weight: float
    #: Copies that it should have however seldom it is asked for.
    num_least: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """One tier of a node."""

    node: str
    capacity_bytes: int
    #: What is there, and may stay or give its room to others.
    holds: frozenset[str] = frozenset()
    #: What must not be put there.
    refuses: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Present:
    """What is wanted of a checkpoint on a node now."""

    desired: Tier | None = None
    #: Somebody said so, and no policy may change it.
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A placement that should change."""

    checkpoint: str
    node: str
    #: What is wanted there now, and what should be; None: nothing.
    desired: Tier | None
    proposed: Tier | None


@dataclass(slots=True, kw_only=True)
class _Copies:
    num_given: int = 0
    #: Nodes that could take another one.
    nodes: list[str] = field(default_factory=list)


def spread(wanted: Mapping[str, Wanted], shelves: Iterable[Shelf], *, worth: float = 0.0) -> dict[str, tuple[str, ...]]:
    """Fill shelves, by node: everything's least copies first, then one more of what has the most weight per copy.

    A copy beyond the least ones bears at least the weight `worth`.
    """
    by_node = {shelf.node: shelf for shelf in shelves}
    free_bytes = {node: shelf.capacity_bytes for node, shelf in by_node.items()}
    placed: dict[str, list[str]] = {node: [] for node in by_node}
    copies = {
        name: _Copies(nodes=[node for node, shelf in by_node.items() if name not in shelf.refuses]) for name in wanted
    }

    def rank(name: str) -> tuple[bool, float, str]:
        given = copies[name]
        stays = _STAYS if any(name in by_node[node].holds for node in given.nodes) else 1.0
        return given.num_given >= wanted[name].num_least, -stays * wanted[name].weight / (given.num_given + 1), name

    while copies:
        name = min(copies, key=rank)
        this, given = wanted[name], copies[name]
        given.nodes = [node for node in given.nodes if free_bytes[node] >= this.num_bytes]
        is_worth = given.num_given < this.num_least or this.weight / (given.num_given + 1) >= worth
        if not (given.nodes and is_worth):
            del copies[name]
            continue
        node = max(given.nodes, key=lambda each: (name in by_node[each].holds, free_bytes[each], each))
        given.nodes.remove(node)
        given.num_given += 1
        placed[node].append(name)
        free_bytes[node] -= this.num_bytes
    return {node: tuple(names) for node, names in placed.items()}


def propose(
    wanted: Mapping[str, Wanted], nodes: Iterable[NodeInfo], present: Mapping[tuple[str, str], Present]
) -> tuple[Proposal, ...]:
    """Say which placements should change, by checkpoint and node; what is pinned stays as it is.

    Weights are jobs of a day. `present` is by checkpoint and node. Nodes that do not tell how large they are are left
    alone.
    """
    shown = [node for node in nodes if node.ssd is not None]
    ssd = spread(_less_pinned(wanted, present), [_ssd(node, wanted, present) for node in shown], worth=_WORTH)
    spare = {name: replace(each, num_least=0) for name, each in wanted.items()}
    dram = spread(spare, [_dram(node, wanted, present, ssd[node.name]) for node in shown], worth=_WORTH)
    found = []
    for name in sorted(wanted):
        for node in sorted(ssd):
            now = present.get((name, node), Present())
            target = Tier.DRAM if name in dram[node] else Tier.SSD if name in ssd[node] else None
            if now.desired is not target and not now.pinned:
                found.append(Proposal(checkpoint=name, node=node, desired=now.desired, proposed=target))
    return tuple(found)


def _less_pinned(wanted: Mapping[str, Wanted], present: Mapping[tuple[str, str], Present]) -> dict[str, Wanted]:
    """What is wanted besides the copies that are pinned, which bear their part."""
    num_pinned = Counter(name for (name, _), now in present.items() if now.pinned and now.desired is not None)
    return {
        name: replace(
            each,
            weight=each.weight / (num_pinned[name] + 1),
            num_least=max(0, each.num_least - num_pinned[name]),
        )
        for name, each in wanted.items()
    }


def _ssd(node: NodeInfo, wanted: Mapping[str, Wanted], present: Mapping[tuple[str, str], Present]) -> Shelf:
    here = _on(node, present)
    capacity_bytes = node.ssd.capacity_bytes if node.ssd else 0
    return Shelf(
        node=node.name,
        # What is pinned in DRAM is on the SSD as well.
        capacity_bytes=int(capacity_bytes * _SSD_SHARE) - _pinned_bytes(wanted, here, {Tier.SSD, Tier.DRAM}),
        holds=node.checkpoints | {name for name, now in here.items() if now.desired is not None},
        refuses=frozenset(name for name, now in here.items() if now.pinned),
    )


def _dram(
    node: NodeInfo, wanted: Mapping[str, Wanted], present: Mapping[tuple[str, str], Present], on_ssd: Iterable[str]
) -> Shelf:
    capacity_bytes = node.dram.capacity_bytes if node.dram else 0
    return Shelf(
        node=node.name,
        capacity_bytes=int(capacity_bytes * _DRAM_SHARE) - _pinned_bytes(wanted, _on(node, present), {Tier.DRAM}),
        holds=node.kept_in_dram,
        refuses=frozenset(wanted.keys() - set(on_ssd)),
    )


def _on(node: NodeInfo, present: Mapping[tuple[str, str], Present]) -> dict[str, Present]:
    return {name: now for (name, where), now in present.items() if where == node.name}


def _pinned_bytes(wanted: Mapping[str, Wanted], here: Mapping[str, Present], tiers: Container[Tier | None]) -> int:
    """What copies take that nobody may remove."""
    pinned = [name for name, now in here.items() if name in wanted and now.pinned and now.desired in tiers]
    return sum(wanted[name].num_bytes for name in pinned)
