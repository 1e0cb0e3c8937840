"""What a change of a placement would do, in words; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sllm_tasks.cluster import Tier
from webapp.admin.formats import human_bytes, human_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A checkpoint as one node has it."""

    num_bytes: int
    #: The fastest tier that holds all of it, None: it is not there.
    actual: Tier | None
    #: Others that have a copy.
    other_nodes: tuple[str, ...]
    #: Models that are served from it.
    models: tuple[str, ...]
    #: Room per tier, None where nobody can tell.
    free_bytes: Mapping[Tier, int | None]
    #: Measured, None where nobody has.
    bytes_per_s: Mapping[Tier, float | None]


def effects(copy: Copy, node: str, wanted: Tier | None) -> tuple[str, ...]:
    """Say what happens if a checkpoint is wanted in a tier of a node, or not there."""
    if wanted is None:
        return _removal(copy, node)
    if wanted is Tier.DRAM:
        return (*_arrival(copy, node), *_prefetch(copy, node))
    kept = copy.actual is Tier.DRAM
    return (*_arrival(copy, node), *((f"Its place in the DRAM of {node} may be taken by others.",) if kept else ()))


def _arrival(copy: Copy, node: str) -> tuple[str, ...]:
    size = human_bytes(copy.num_bytes)
    if copy.actual is not None:
        return (f"{node} has it already: nothing is copied.",)
    if not copy.other_nodes:
        return (f"No node has a copy that {node} could fetch; deploy it again.",)
    return (f"{size} are fetched from {', '.join(copy.other_nodes)}.", *_room(copy, node, Tier.SSD))


def _prefetch(copy: Copy, node: str) -> tuple[str, ...]:
    if copy.actual is Tier.DRAM:
        return ()
    rate = copy.bytes_per_s.get(Tier.SSD)
    time = f", in about {human_s(copy.num_bytes / rate)} at what its SSD was measured to deliver" if rate else ""
    return (f"{human_bytes(copy.num_bytes)} are read into DRAM and kept there{time}.", *_room(copy, node, Tier.DRAM))


def _room(copy: Copy, node: str, tier: Tier) -> tuple[str, ...]:
    free = copy.free_bytes.get(tier)
    where = {Tier.SSD: "SSD", Tier.DRAM: "DRAM"}[tier]
    if free is None:
        return (f"How much room the {where} of {node} has is not known.",)
    if free >= copy.num_bytes:
        return (f"The {where} of {node} has {human_bytes(free)} of room.",)
    return (f"The {where} of {node} has {human_bytes(free)} of room: what is wanted least makes way, or it fails.",)


def _removal(copy: Copy, node: str) -> tuple[str, ...]:
    if copy.actual is None:
        return (f"{node} does not have it; no policy will bring it there.",)
    if copy.models and not copy.other_nodes:
        return (f"It stays: this is the last copy of what {', '.join(copy.models)} is served from.",)
    left = f"Copies stay on {', '.join(copy.other_nodes)}." if copy.other_nodes else "No other node has it."
    return (f"{human_bytes(copy.num_bytes)} are deleted from {node} once no replica uses them.", left)
