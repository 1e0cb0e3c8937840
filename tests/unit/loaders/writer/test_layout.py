"""Where things lie: order of layers, runs of them balanced over ranks, no hole, no overlap."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.errors import CheckpointUnsupportedError
from loaders.format.index_reader import read_tensor_index
from loaders.format.tensor_index import contiguous_stride
from loaders.writer.layers import group_of, split_evenly
from loaders.writer.layout import Layout, plan_layout
from loaders.writer.sources import SourceTensor

_SIZES = st.lists(st.integers(0, 1000), min_size=1, max_size=12)


def _plan(sizes: dict[str, int], num_partitions: int = 1) -> Layout:
    tensors = [
        SourceTensor(name=name, storage=number, dtype="uint8", shape=(size,), stride=(1,))
        for number, (name, size) in enumerate(sizes.items())
    ]
    return plan_layout(tensors, list(sizes.values()), num_partitions=num_partitions)


def _largest(sizes: list[int], runs: list[int]) -> int:
    return max(sum(size for size, run in zip(sizes, runs, strict=True) if run == which) for which in set(runs))


def test_embeddings_come_first_then_layers_by_number_then_the_rest() -> None:
    names = [
        "lm_head.weight",
        "model.layers.10.mlp.weight",
        "model.layers.2.mlp.weight",
        "model.layers.2.attention.weight",
        "model.norm.weight",
        "model.embed_tokens.weight",
        "transformer.wte.weight",
    ]
    assert list(_plan(dict.fromkeys(names, 8)).index.tensors) == [
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "model.layers.2.attention.weight",
        "model.layers.2.mlp.weight",
        "model.layers.10.mlp.weight",
        "lm_head.weight",
        "model.norm.weight",
    ]


def test_what_is_joined_lies_together_in_its_order_within_its_layer() -> None:
    sizes = {f"layers.{layer}.{part}.{kind}": 256 for layer in range(2) for part in range(12) for kind in ("in", "out")}
    tensors = [
        SourceTensor(name=name, storage=number, dtype="uint8", shape=(256,), stride=(1,))
        for number, name in enumerate(sizes)
    ]
    together = [
        tuple(f"layers.{layer}.{part}.{kind}" for part in range(12)) for layer in range(2) for kind in ("out", "in")
    ]
    entries = plan_layout(tensors, list(sizes.values()), together=together).index.tensors
    for number, names in enumerate(together):
        begin = entries[names[0]].offset
        assert [entries[name].offset for name in names] == [begin + 256 * place for place in range(12)]
        assert begin // (24 * 256) == number // 2


def test_experts_belong_to_their_layer() -> None:
    assert group_of("model.layers.3.mlp.experts.17.w1.weight") == group_of("model.layers.3.input_layernorm.weight")


def test_ranks_get_whole_layers_in_order_with_embeddings_first_and_the_head_last() -> None:
    sizes = {"model.embed_tokens.weight": 300, "lm_head.weight": 300, "model.norm.weight": 4}
    sizes |= {f"model.layers.{layer}.{part}.weight": 50 for layer in range(12) for part in "ab"}
    layout = _plan(sizes, 3)
    ranks = {name: entry.partition for name, entry in layout.index.tensors.items()}
    assert list(ranks.values()) == sorted(ranks.values())
    assert ranks["model.embed_tokens.weight"] == 0
    assert ranks["lm_head.weight"] == ranks["model.norm.weight"] == 2
    assert all(
        ranks[f"model.layers.{layer}.a.weight"] == ranks[f"model.layers.{layer}.b.weight"] for layer in range(12)
    )
    loads = [sum(sizes[name] for name, rank in ranks.items() if rank == which) for which in range(3)]
    assert max(loads) <= 604


@given(sizes=_SIZES, num_runs=st.integers(1, 4))
def test_no_other_cut_has_a_smaller_largest_run(sizes: list[int], num_runs: int) -> None:
    runs = split_evenly(sizes, num_runs)
    assert runs == sorted(runs)
    assert set(runs) == set(range(min(num_runs, len(sizes))))
    # The best that there is, by dynamic programming.
    best = [float(sum(sizes[: end + 1])) for end in range(len(sizes))]
    for _ in range(num_runs - 1):
        best = [
            min([best[end], *(max(best[cut], sum(sizes[cut + 1 : end + 1])) for cut in range(end))])
            for end in range(len(sizes))
        ]
    assert _largest(sizes, runs) == best[-1]


@given(sizes=st.lists(st.integers(0, 2000), max_size=30), num_partitions=st.integers(1, 4))
def test_storages_lie_side_by_side_at_multiples_of_256_and_the_reader_agrees(
    sizes: list[int], num_partitions: int
) -> None:
    layout = _plan({f"layers.{number % 7}.t{number}": size for number, size in enumerate(sizes)}, num_partitions)
    assert len(layout.partitions) == num_partitions
    for partition in layout.partitions:
        assert partition.num_bytes % 4096 == 0
        for one, other in pairwise(partition.storages):
            assert other.offset == -(-one.end // 256) * 256
    index, ranges = read_tensor_index(layout.index.encode().decode("ascii"))
    assert index == layout.index
    assert [ranges.partition_bytes(rank) for rank in range(num_partitions)] == [
        partition.num_bytes for partition in layout.partitions
    ]
    assert ranges.dtypes == layout.dtypes


@pytest.mark.parametrize(
    ("shape", "stride"), [((), ()), ((3,), (1,)), ((2, 3), (3, 1)), ((2, 0, 3), (3, 3, 1)), ((0, 5), (5, 1))]
)
def test_contiguous_strides_are_those_of_torch(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    assert contiguous_stride(shape) == stride


@pytest.mark.parametrize("num_partitions", [0, 65])
def test_a_number_of_partitions_that_no_server_has_is_refused(num_partitions: int) -> None:
    with pytest.raises(CheckpointUnsupportedError, match="1 to 64"):
        _plan({"a": 1}, num_partitions)


def test_a_rank_above_eight_is_refused() -> None:
    tensor = SourceTensor(name="a", storage=0, dtype="uint8", shape=(1,) * 9, stride=(1,) * 9)
    with pytest.raises(CheckpointUnsupportedError, match="rank 9"):
        plan_layout([tensor], [1])
