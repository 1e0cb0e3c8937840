"""Where copies of checkpoints should be: what every answer keeps to, and what popularity changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.cluster import NodeInfo, Tier, TierUsage
from sllm_tasks.policy.placement import Present, Shelf, Wanted, propose, spread

_NODES = ("node0", "node1", "node2")


def _node(name: str, *checkpoints: str, ssd_bytes: int = 1_000, dram_bytes: int = 0) -> NodeInfo:
    return NodeInfo(
        name=name,
        checkpoints=frozenset(checkpoints),
        ssd=TierUsage(capacity_bytes=ssd_bytes, used_bytes=0),
        dram=TierUsage(capacity_bytes=dram_bytes, used_bytes=0),
    )


def _proposed(
    wanted: dict[str, Wanted], nodes: list[NodeInfo], present: dict[tuple[str, str], Present] | None = None
) -> dict[tuple[str, str], Tier | None]:
    return {(each.checkpoint, each.node): each.proposed for each in propose(wanted, nodes, present or {})}


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.builds(Wanted, num_bytes=st.integers(1, 40), weight=st.floats(0, 100), num_least=st.integers(0, 2)),
    ),
    st.lists(st.integers(0, 100), min_size=3, max_size=3),
)
def test_no_shelf_is_overfilled_and_no_copy_is_on_it_twice(wanted: dict[str, Wanted], capacities: list[int]) -> None:
    shelves = [Shelf(node=name, capacity_bytes=size) for name, size in zip(_NODES, capacities, strict=True)]
    placed = spread(wanted, shelves)
    for shelf in shelves:
        names = placed[shelf.node]
        assert len(set(names)) == len(names)
        assert sum(wanted[name].num_bytes for name in names) <= shelf.capacity_bytes


def test_the_more_popular_has_more_copies_and_none_is_left_without() -> None:
    wanted = {"often": Wanted(num_bytes=10, weight=90), "seldom": Wanted(num_bytes=10, weight=1)}
    placed = spread(wanted, [Shelf(node=name, capacity_bytes=10) for name in (*_NODES, "node3")])
    assert [sum(name in names for names in placed.values()) for name in wanted] == [3, 1]


def test_popular_checkpoints_are_proposed_for_more_nodes_and_for_memory() -> None:
    wanted = {"often": Wanted(num_bytes=100, weight=1_000), "seldom": Wanted(num_bytes=100, weight=0)}
    nodes = [_node("node0", "often", "seldom", dram_bytes=250), _node("node1", dram_bytes=250)]
    present = {(name, "node0"): Present(desired=Tier.SSD) for name in wanted}
    assert _proposed(wanted, nodes, present) == {("often", "node0"): Tier.DRAM, ("often", "node1"): Tier.DRAM}


def test_what_is_proposed_and_done_is_not_proposed_again() -> None:
    wanted = {name: Wanted(num_bytes=300, weight=weight) for name, weight in (("a", 100), ("b", 90), ("c", 30))}
    nodes = [_node("node0", dram_bytes=700), _node("node1")]
    done = {where: Present(desired=tier) for where, tier in _proposed(wanted, nodes).items()}
    assert done
    assert _proposed(wanted, nodes, done) == {}


def test_a_small_change_of_popularity_moves_nothing() -> None:
    present = {("a", "node0"): Present(desired=Tier.SSD), ("b", "node1"): Present(desired=Tier.SSD)}
    nodes = [_node("node0", "a", ssd_bytes=120), _node("node1", "b", ssd_bytes=120), _node("node2", "a", ssd_bytes=120)]
    present["a", "node2"] = Present(desired=Tier.SSD)
    for weight, is_moved in ((110.0, False), (500.0, True)):
        wanted = {"a": Wanted(num_bytes=100, weight=100), "b": Wanted(num_bytes=100, weight=weight)}
        assert bool(_proposed(wanted, nodes, present)) is is_moved


def test_what_is_pinned_in_memory_leaves_that_much_less_of_it_to_others() -> None:
    wanted = {name: Wanted(num_bytes=100, weight=1_000) for name in ("pinned", "other")}
    present = {("pinned", "node0"): Present(desired=Tier.DRAM, pinned=True)}
    for dram_bytes, tier in ((400, Tier.DRAM), (399, Tier.SSD)):
        nodes = [_node("node0", *wanted, dram_bytes=dram_bytes)]
        assert _proposed(wanted, nodes, present) == {("other", "node0"): tier}


def test_what_is_pinned_stays_and_counts() -> None:
    wanted = {"a": Wanted(num_bytes=100, weight=0)}
    nodes = [_node("node0", "a"), _node("node1")]
    kept = {("a", "node0"): Present(desired=Tier.SSD, pinned=True)}
    refused = {("a", "node0"): Present(desired=None, pinned=True)}
    assert _proposed(wanted, nodes, kept) == {}
    assert _proposed(wanted, nodes, refused) == {("a", "node1"): Tier.SSD}
