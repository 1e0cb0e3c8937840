"""Reads into memory that is in pieces, past the page cache or not."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from loaders.errors import CheckpointCorruptError
from loaders.format.files import open_regular
from loaders.memory.mapping import Mapping
from loaders.reading.direct_io import ALIGNMENT, DirectReader

_PIECE = 4 * ALIGNMENT
_NUM_PIECES = 3


def _read(path: Path, offset: int, num_bytes: int, *, direct: bool = True) -> bytes:
    """Read into every second piece of some memory; what lies between them stays as it is."""
    memory = Mapping.anonymous(2 * _NUM_PIECES * _PIECE)
    pieces = [memory.view[2 * number * _PIECE :][:_PIECE] for number in range(_NUM_PIECES)]
    opened = open_regular(path)
    try:
        with DirectReader(opened, direct=direct) as reader:
            reader.read(pieces, offset, num_bytes)
    finally:
        os.close(opened.fd)
    for number in range(_NUM_PIECES):
        assert not any(memory.view[(2 * number + 1) * _PIECE :][:_PIECE])
    return b"".join(pieces)[:num_bytes]


@pytest.fixture
def content(tmp_path: Path) -> bytes:
    """What is in the file `tmp_path / "data"`: its last block is not a whole one."""
    content = random.Random(0).randbytes(4 * _PIECE + ALIGNMENT + 17)
    (tmp_path / "data").write_bytes(content)
    return content


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(
    ("offset", "num_bytes"),
    [
        (0, _NUM_PIECES * _PIECE),
        (_PIECE, 2 * _PIECE + 1),
        (2 * _PIECE, 2 * _PIECE + ALIGNMENT + 17),
        (4 * _PIECE + ALIGNMENT, 17),
        (0, 1),
        (100, 2 * _PIECE),
    ],
)
def test_pieces_are_filled_one_behind_the_other(
    tmp_path: Path, content: bytes, offset: int, num_bytes: int, direct: bool
) -> None:
    assert _read(tmp_path / "data", offset, num_bytes, direct=direct) == content[offset : offset + num_bytes]


def test_a_read_that_the_kernel_cuts_short_goes_on_where_it_stopped(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.preadv

    def read_some(descriptor: int, pieces: Sequence[memoryview], offset: int) -> int:
        return read(descriptor, [pieces[0][: 3 * ALIGNMENT]], offset)

    monkeypatch.setattr(os, "preadv", read_some)
    num_bytes = 2 * _PIECE + ALIGNMENT + 17
    assert _read(tmp_path / "data", 2 * _PIECE, num_bytes) == content[2 * _PIECE :]


def test_a_file_that_ends_within_the_pieces_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CheckpointCorruptError, match=f"data: ends at byte {len(content)}"):
        _read(tmp_path / "data", 2 * _PIECE, _NUM_PIECES * _PIECE)
