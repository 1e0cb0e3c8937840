"""Keys and values of all running jobs, in buffers that are allocated once.

Jobs are rows. Their tokens end at a common column, so that one decode step appends one column and nothing is copied:

    row 0   . . a a a a a      `start` is where the longest row begins, `end` is behind the last column;
    row 1   . . . . b b b      the model sees the columns between, and a mask that hides the dots
    row 2   . . c c c c c

Prompts on their way in take the rows that are free, the last ones first, and begin at the first column. So a job that
is read here while another worker decodes it needs no memory besides.

Everything outside a row's own tokens is zero, always: a mask gives hidden columns the weight 0, and 0 times what a
failed job may have left there (inf, nan) would not be 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from sllm_tasks.engines.layer_shapes import LayerShape, TokenShape
from sllm_tasks.engines.lazy_zeros import lazy_zeros


@dataclass(slots=True)
class _Window:
    """Columns in use; shared by all layers."""

    start: int = 0
    end: int = 0
    #: Tokens of each row.
    lengths: list[int] = field(default_factory=list)

    @property
    def width(self) -> int:
        return self.end - self.start


class _Layer(CacheLayerMixin):
    """The buffers of one layer, as transformers wants to see a cache layer."""

    is_sliding = False

    def __init__(self, window: _Window, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # transformers' constructor
        self.window = window
        self.keys = keys
        self.values = values
        self.buffers = (keys, values)
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the buffers exist from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new column of every row; the window moves when all layers are done."""
        rows, start, end = len(self.window.lengths), self.window.start, self.window.end
        new_end = end + key_states.shape[-2]
        keys, values = self.buffers
        keys[:rows, :, end:new_end] = key_states
        values[:rows, :, end:new_end] = value_states
        return keys[:rows, :, start:new_end], values[:rows, :, start:new_end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` will return."""
        return self.window.width + query_length, 0

    def get_seq_length(self) -> int:
        """Columns before this step."""
        return self.window.width

    def get_max_length(self) -> int:
        """Columns of the buffers."""
        return self.buffers[0].shape[-2]


@dataclass(slots=True)
class _Place:
    """Where a prompt on its way in is now. Its layers refer to this: circles with it would keep all buffers alive."""

    row: int


class ParkedRow:
    """A prompt on its way in: the row that it has now, and its tokens as transformers wants to see a cache."""

    def __init__(self, row: int, layers: Sequence[_Layer]) -> None:
        self.place = _Place(row)
        self._layers = [_ParkedLayer(self.place, *layer.buffers) for layer in layers]
        self.cache = Cache(layers=list(self._layers))

    @property
    def row(self) -> int:
        """Row of the batch."""
        return self.place.row

    @property
    def num_written(self) -> int:
        """Columns that any layer has written: more than tokens when a step has failed half-way."""
        return max(layer.get_seq_length() for layer in self._layers)

    @property
    def num_tokens(self) -> int:
        """Tokens that the model has seen."""
        return self.cache.get_seq_length()


class _ParkedLayer(CacheLayerMixin):
    """The columns of one row of a layer's buffers, from the first one on."""

    is_sliding = False

    def __init__(self, place: _Place, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # transformers' constructor
        self._place = place
        self._buffers = (keys, values)
        self._length = 0
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Do nothing: the buffers exist from the start."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns."""
        seen = self._length
        self._length += key_states.shape[-2]
        keys, values = (buffer[self._place.row, :, : self._length].unsqueeze(0) for buffer in self._buffers)
        keys[:, :, seen:] = key_states
        values[:, :, seen:] = value_states
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what `update` will return."""
        return self._length + query_length, 0

    def get_seq_length(self) -> int:
        """Columns before this step."""
        return self._length

    def get_max_length(self) -> int:
        """Columns of the buffers."""
        return self._buffers[0].shape[-2]


@dataclass(frozen=True, slots=True)
class _Vacancy:
    """The row that a prompt leaves, and the one whose tokens take its place, unless it is the same."""

    row: int
    freed: int
    #: Of either of them; all columns behind are zero.
    num_columns: int

    def fill(self, buffer: torch.Tensor) -> None:
        if self.row != self.freed:
            buffer[self.row, :, : self.num_columns] = buffer[self.freed, :, : self.num_columns]
        buffer[self.freed, :, : self.num_columns] = 0


class BatchCache:
    """The cache of all rows. Owned by the engine's thread."""

    def __init__(self, shapes: Sequence[LayerShape], *, max_rows: int, max_columns: int) -> None:
        """Allocate buffers for the layers of a model."""
        self._window = _Window()
        self._max_rows = max_rows
        self._max_columns = max_columns
        # In the order of their rows, which count down from the last one.
        self._parked: list[ParkedRow] = []
        self._layers = [
            _Layer(self._window, _zeros(shape.keys, max_rows, max_columns), _zeros(shape.values, max_rows, max_columns))
            for shape in shapes
        ]
        # Moves must not fail for lack of memory, half of the layers moved and the other half not.
        buffers = sorted((buffer for layer in self._layers for buffer in layer.buffers), key=torch.numel)
        largest = {buffer.device: buffer for buffer in buffers}
        self._scratch = {device: torch.empty_like(buffer).flatten() for device, buffer in largest.items()}
        #: What `model.forward` takes as `past_key_values`.
        self.cache = Cache(layers=list(self._layers))

    @property
    def num_rows(self) -> int:
        """Rows in use: 0 to `num_rows` - 1."""
        return len(self._window.lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows together."""
        return sum(self._window.lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row."""
        return tuple(self._window.lengths)

    def park(self) -> ParkedRow:
        """Take a free row for a prompt; it must `join` or be discarded."""
        parked = ParkedRow(self._max_rows - 1 - len(self._parked), self._layers)
        self._parked.append(parked)
        return parked

    def join(self, parked: ParkedRow) -> None:
        """Append a row with the tokens of a prompt."""
        window, length = self._window, parked.num_tokens
        if length > window.end:
            self._move(length)
        row, vacancy = self.num_rows, self._vacate(parked)
        for layer in self._layers:
            for buffer in layer.buffers:
                # The new row may be the one that becomes free, where other columns are meant.
                tokens = self._copy(buffer[vacancy.row : vacancy.row + 1, :, :length])
                vacancy.fill(buffer)
                buffer[row, :, window.end - length : window.end] = tokens[0]
        window.lengths.append(length)
        window.start = min(window.start, window.end - length)

    def discard(self, parked: ParkedRow) -> None:
        """Free the row of a prompt that will not join."""
        vacancy = self._vacate(parked)
        for layer in self._layers:
            for buffer in layer.buffers:
                vacancy.fill(buffer)

    def _vacate(self, parked: ParkedRow) -> _Vacancy:
        """Give the row of a prompt to the last one, whose own becomes free."""
        last = self._parked.pop()
        vacancy = _Vacancy(parked.row, last.row, max(parked.num_written, last.num_written))
        if last is not parked:
            self._parked[self._parked.index(parked)] = last
            last.place.row = parked.row
        return vacancy

    def leave(self, row: int) -> None:
        """Free a row; the last row takes its number."""
        window, last = self._window, self.num_rows - 1
        for layer in self._layers:
            for buffer in layer.buffers:
                if row != last:
                    buffer[row, :, window.start : window.end] = buffer[last, :, window.start : window.end]
                # One column further: a step that failed half-way may have written there.
                buffer[last, :, window.start : window.end + 1] = 0
        window.lengths[row] = window.lengths[last]
        window.lengths.pop()
        if not window.lengths:
            window.end = 0
        window.start = window.end - max(window.lengths, default=0)

    def reserve_column(self) -> None:
        """Make room for one more column; at least one must be free in front or behind."""
        if self._window.end == self._max_columns:
            self._move(self._window.width)

    def attention_mask(self) -> torch.Tensor:
        """Show each row its own tokens and the one that is about to be appended."""
        lengths = torch.tensor(self._window.lengths)
        columns = torch.arange(self._window.width + 1)
        return (columns >= self._window.width - lengths.unsqueeze(1)).long()

    def commit_column(self) -> None:
        """Count the column that every layer has just written; without this, the next step writes it again."""
        self._window.end += 1
        self._window.lengths = [length + 1 for length in self._window.lengths]

    def _move(self, new_end: int) -> None:
        """Move all tokens so that they end at column `new_end`."""
        window, rows = self._window, self.num_rows
        new_start = new_end - window.width
        for layer in self._layers:
            for buffer in layer.buffers:
                tokens = buffer[:rows, :, window.start : window.end]
                copy = self._copy(tokens)
                tokens.zero_()
                buffer[:rows, :, new_start:new_end] = copy
        window.start, window.end = new_start, new_end

    def _copy(self, tokens: torch.Tensor) -> torch.Tensor:
        """Keep what is about to be overwritten, until the next call."""
        return self._scratch[tokens.device][: tokens.numel()].view(tokens.shape).copy_(tokens)


def _zeros(of: TokenShape, rows: int, columns: int) -> torch.Tensor:
    return lazy_zeros((rows, of.num_heads, columns, of.head_dim), of.dtype, of.device)
