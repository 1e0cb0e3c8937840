"""What is known of a joined tensor is what torch makes of it: whose bytes, and in which order."""

from __future__ import annotations

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from loaders.joining import Joined, Joining, concatenate, stack

SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


def numbered(shapes: list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors of which each element is another number."""
    tensors, begin = {}, 0
    for number, shape in enumerate(shapes):
        size = torch.Size(shape).numel()
        tensors[str(number)] = torch.arange(begin, begin + size).view(shape)
        begin += size
    return tensors


def assert_is(joined: Joined | None, found: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
    assert joined is not None
    assert joined.shape == tuple(found.shape)
    assert joined.pieces == tuple((name, tensors[name].numel()) for name in joined.names)
    assert torch.cat([tensors[name].view(-1) for name in joined.names]).tolist() == found.reshape(-1).tolist()


@given(SHAPES, st.integers(1, 4), st.data())
def test_stacks_side_by_side_are_what_torch_makes_of_them(
    shape: tuple[int, ...], number: int, data: st.DataObject
) -> None:
    kinds = data.draw(st.integers(1, 3))
    tensors = numbered([shape] * (number * kinds))
    names = [[str(kind * number + place) for place in range(number)] for kind in range(kinds)]
    dim = data.draw(st.integers(-1, 1))
    with Joining(tensors) as joining:
        stacks = [torch.stack([tensors[name] for name in kind]) for kind in names]
        whole = torch.cat(stacks, dim=dim % (len(shape) + 1))
        again = torch.cat(stacks, dim)
    for stacked in stacks:
        assert_is(joining.find(stacked), stacked, tensors)
    if dim in {0, 1}:
        assert_is(joining.find(whole), whole, tensors)
        assert_is(joining.find(again), again, tensors)
    elif (joined := joining.find(again)) is not None:
        assert_is(joined, again, tensors)


@given(st.lists(SHAPES, min_size=1, max_size=4), st.integers(-3, 3))
@example([(1, 1), (1,)], 1)
def test_whatever_is_concatenated_is_known_as_it_is_or_not_at_all(shapes: list[tuple[int, ...]], dim: int) -> None:
    tensors = numbered(shapes)
    with Joining(tensors) as joining:
        try:
            found = torch.cat(list(tensors.values()), dim)
        except (RuntimeError, IndexError):
            found = None
    parts = [Joined(shape, ((str(number), torch.Size(shape).numel()),)) for number, shape in enumerate(shapes)]
    if found is None:
        assert dim < 0 or concatenate(parts, dim) is None
    elif (joined := joining.find(found)) is not None:
        assert_is(joined, found, tensors)


def test_what_is_changed_on_the_way_is_not_known() -> None:
    tensors = numbered([(2, 3), (2, 3)])
    first, second = tensors.values()
    with Joining(tensors) as joining:
        others = [
            torch.stack([first, second], dim=1),
            torch.stack([first, second + 0]),
            torch.stack([first.t(), second.t()]),
            torch.cat([first, second.to(torch.float64)]),
            torch.stack([first, second]).transpose(0, 1),
            torch.cat([first[:1], second]),
            torch.cat([first, second], axis=0),
            torch.cat([first, second], dim=1),
        ]
    assert [joining.find(tensor) for tensor in others[:-1]] == [None] * 7
    assert joining.find(others[-1]) is None, "rows of two tensors take turns, and each would be cut"
    assert joining.find(first) == Joined((2, 3), (("0", 6),))


def test_nothing_and_unlike_shapes_cannot_be_stacked() -> None:
    assert stack([]) is None
    assert stack([Joined((2,), (("a", 2),)), Joined((3,), (("b", 3),))]) is None
    assert concatenate([], 0) is None
