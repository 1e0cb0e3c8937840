"""The batch's cache shows each row its own tokens, wherever they have been moved, and zeros besides."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from transformers import Cache, DynamicCache

from sllm_tasks.engines.kv_cache import BatchCache, ParkedRow
from sllm_tasks.engines.layer_shapes import filled_shapes

MAX_ROWS, MAX_COLUMNS, NUM_LAYERS, NUM_HEADS, HEAD_DIM = 3, 12, 2, 2, 4


def fill(cache: Cache, length: int, first: float) -> None:
    """Append keys that count from `first`, one per token, and values that are their negatives."""
    keys = torch.arange(first, first + length).view(1, 1, -1, 1).expand(1, NUM_HEADS, length, HEAD_DIM)
    for layer in range(NUM_LAYERS):
        cache.update(keys + 1000 * layer, -keys - 1000 * layer, layer)


def filled(length: int, first: float) -> DynamicCache:
    cache = DynamicCache()
    fill(cache, length, first)
    return cache


class BatchCacheMachine(RuleBasedStateMachine):
    """Prompts that are read in pieces, joins, steps and departures in any order, beside lists that do the same."""

    def __init__(self) -> None:
        super().__init__()
        self.batch = BatchCache(filled_shapes(filled(1, 1.0), 1), max_rows=MAX_ROWS, max_columns=MAX_COLUMNS)
        self.rows: list[list[float]] = []
        self.parked: list[tuple[ParkedRow, list[float]]] = []
        self.next = 1.0

    @precondition(lambda self: len(self.rows) + len(self.parked) < MAX_ROWS)
    @rule()
    def park(self) -> None:
        self.parked.append((self.batch.park(), []))

    @precondition(lambda self: self.parked)
    @rule(data=st.data(), length=st.integers(1, MAX_COLUMNS - 1))
    def read(self, data: st.DataObject, length: int) -> None:
        parked, tokens = data.draw(st.sampled_from(self.parked))
        length = min(length, MAX_COLUMNS - 1 - len(tokens))
        if length:
            fill(parked.cache, length, self.next)
            tokens += [self.next + index for index in range(length)]
            self.next += length

    @precondition(lambda self: any(tokens for _, tokens in self.parked))
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        parked, tokens = data.draw(st.sampled_from([each for each in self.parked if each[1]]))
        self.batch.join(parked)
        self.parked.remove((parked, tokens))
        self.rows.append(tokens)

    @precondition(lambda self: self.parked)
    @rule(data=st.data())
    def discard(self, data: st.DataObject) -> None:
        parked, tokens = data.draw(st.sampled_from(self.parked))
        self.batch.discard(parked)
        self.parked.remove((parked, tokens))

    @precondition(lambda self: self.parked)
    @rule(data=st.data(), length=st.integers(1, MAX_COLUMNS - 1))
    def fail_to_read(self, data: st.DataObject, length: int) -> None:
        parked, tokens = data.draw(st.sampled_from(self.parked))
        if length := min(length, MAX_COLUMNS - len(tokens)):
            nothing = torch.full((1, NUM_HEADS, length, HEAD_DIM), torch.nan)
            parked.cache.update(nothing, nothing, 0)
        self.batch.discard(parked)
        self.parked.remove((parked, tokens))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        row = data.draw(st.integers(0, len(self.rows) - 1))
        self.batch.leave(row)
        self.rows[row] = self.rows[-1]
        self.rows.pop()

    @precondition(lambda self: self.rows and max(map(len, self.rows)) < MAX_COLUMNS)
    @rule(failures=st.integers(0, 1))
    def step(self, failures: int) -> None:
        self.batch.reserve_column()
        new = torch.arange(self.next, self.next + len(self.rows))
        for _ in range(failures):
            self.write(torch.full_like(new, torch.nan), num_layers=1)
        keys = self.write(new, num_layers=NUM_LAYERS)
        mask = self.batch.attention_mask().bool()
        self.batch.commit_column()
        for row, tokens in enumerate(self.rows):
            tokens.append(float(new[row]))
            assert keys[row, 0, mask[row], 0].tolist() == [token + 1000 * (NUM_LAYERS - 1) for token in tokens]
            assert not keys[row, 0, ~mask[row]].any()
        self.next += len(self.rows)

    def write(self, new: torch.Tensor, *, num_layers: int) -> torch.Tensor:
        column = new.view(-1, 1, 1, 1).expand(-1, NUM_HEADS, 1, HEAD_DIM)
        for layer in range(num_layers):
            keys, values = self.batch.cache.update(column + 1000 * layer, -column - 1000 * layer, layer)
            assert torch.equal(keys, -values) or new.isnan().any()
        return keys

    @invariant()
    def lengths_agree(self) -> None:
        assert self.batch.lengths == tuple(map(len, self.rows))
        assert self.batch.num_tokens == sum(map(len, self.rows))

    @invariant()
    def parked_rows_hold_what_was_read(self) -> None:
        assert len({parked.row for parked, _ in self.parked}) == len(self.parked)
        for parked, tokens in self.parked:
            assert parked.num_tokens == len(tokens)
            assert parked.row >= len(self.rows)
            keys = self.batch.cache.layers[0].keys[parked.row, 0, :, 0]
            assert keys.tolist() == tokens + [0] * (MAX_COLUMNS - len(tokens))

    @invariant()
    def rows_that_are_free_are_zero(self) -> None:
        free = slice(len(self.rows), MAX_ROWS - len(self.parked))
        for layer in self.batch.cache.layers:
            assert not layer.keys[free].any()
            assert not layer.values[free].any()


TestBatchCache = BatchCacheMachine.TestCase
TestBatchCache.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
