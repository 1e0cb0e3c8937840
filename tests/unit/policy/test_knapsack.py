"""What is freed is enough, costs least, and holds nothing that could be spared."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sllm_tasks.policy.knapsack import Item, cheapest

_SIZES = st.integers(1, 12)
_COSTS = st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0, 3.5])
_ITEMS = st.lists(st.tuples(_SIZES, _COSTS), max_size=8).map(
    lambda pairs: [Item(id=f"i{index}", num_bytes=size, cost_s=cost) for index, (size, cost) in enumerate(pairs)]
)


def least_cost(items: list[Item], needed_bytes: int) -> float | None:
    """Try every set."""
    enough = [
        sum(item.cost_s for item in chosen)
        for count in range(len(items) + 1)
        for chosen in combinations(items, count)
        if sum(item.num_bytes for item in chosen) >= needed_bytes
    ]
    return min(enough, default=None)


@given(_ITEMS, st.integers(0, 40))
def test_it_finds_what_trying_every_set_finds(items: list[Item], needed_bytes: int) -> None:
    found = cheapest(items, needed_bytes)
    assert (None if found is None else found.cost_s) == least_cost(items, needed_bytes)


@given(_ITEMS, st.integers(0, 40))
def test_the_set_is_enough_and_nothing_in_it_can_be_spared(items: list[Item], needed_bytes: int) -> None:
    found = cheapest(items, needed_bytes)
    if found is not None:
        sizes = {item.id: item.num_bytes for item in items}
        freed = sum(sizes[id_] for id_ in found.ids)
        assert freed >= needed_bytes
        assert all(freed - sizes[id_] < needed_bytes for id_ in found.ids)


def test_two_cheap_ones_go_before_a_dear_one() -> None:
    items = [Item(id="a", num_bytes=5, cost_s=1.0), Item(id="b", num_bytes=5, cost_s=1.0)]
    dear = Item(id="c", num_bytes=10, cost_s=3.0)
    found = cheapest([*items, dear], 10)
    assert found is not None
    assert found.ids == ("a", "b")


@pytest.mark.parametrize("num_items", [60])
def test_many_replicas_on_a_gpu_are_still_decided_about(num_items: int) -> None:
    items = [Item(id=f"{index:03}", num_bytes=1 << (index % 30), cost_s=1.1**index) for index in range(num_items)]
    found = cheapest(items, (1 << 31) - 2)
    assert found is not None
