"""Checkpoints and safetensors files with altered texts, and what must hold when they are opened."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from loaders.errors import LoaderError
from loaders.format.dtypes import ITEMSIZE
from loaders.format.safetensors_header import open_safetensors
from loaders.format.validate import open_checkpoint
from loaders.format.verify import verify
from loaders.writer.convert import convert
from tests.support.checkpoints import alter, content_of, small_state_dict, write_manifest

#: Twice the rule: a busy machine must not look like a slow reader.
_MAX_CPU_S = 2.0

_TOKENS = (
    *(
        '"',
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\\",
        "\\u0000",
        "\0",
        "-",
        "-0",
        "0",
        "00",
        "1e9",
        "1.0",
        "NaN",
        "null",
        "true",
    ),
    *(
        "9" * 18,
        "9" * 19,
        "9" * 5000,
        str(1 << 63),
        str((1 << 63) - 1),
        str(1 << 64),
        "[" * 2000,
        '{"a":' * 500,
        " ",
        "\n",
    ),
    *(
        '"layout":"packed"',
        '"stride":[0]',
        '"storage_offset":1',
        "../",
        "/etc/passwd",
        "a" * 300,
        "\u00e4",
        "\U0001f600",
    ),
    *('"__metadata__":{}', '"num_bytes":0', '"offset":256', '"shape":[]', '"dtype":"bool"', '"partition":1'),
)


def mutate(text: str, chance: random.Random) -> str:
    """Change a text in some places: numbers, tokens, pieces moved, doubled or dropped."""
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        at = chance.randrange(len(text) + 1)
        end = min(len(text), at + chance.choice((0, 1, 2, 8, 64)))
        kind = chance.randrange(5)
        if kind == 0:
            piece = chance.choice(_TOKENS)
        elif kind == 1:
            piece = chr(chance.randrange(128))
        elif kind == 2:
            other = chance.randrange(len(text) + 1)
            piece = text[other : other + chance.choice((1, 8, 64, 400))]
        elif kind == 3:
            piece = text[at:end] * 2
        else:
            piece = _other_number(text, at, chance)
            end = at + len(text[at:]) - len(text[at:].lstrip("0123456789"))
        text = text[:at] + piece + text[end:]
    return text


def _other_number(text: str, at: int, chance: random.Random) -> str:
    digits = text[at : at + len(text[at:]) - len(text[at:].lstrip("0123456789"))]
    value = int(digits) if digits and len(digits) < 100 else 0
    return str(chance.choice((value + 1, value - 1, value * 2, value + 256, value ^ (1 << chance.randrange(64)), 0)))


class Checkpoints:
    """Alters a checkpoint and opens it."""

    def __init__(self, folder: Path) -> None:
        self._original, self._path = folder / "original", folder / "altered"
        weights = (torch.randn(300_000, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
        convert(small_state_dict() | {"model.layers.2.packed": weights}, self._original, pack=True, num_partitions=2)
        self._index = (self._original / "tensor_index.json").read_text()
        self._content = content_of(self._original)

    @property
    def texts(self) -> tuple[str, str]:
        """Its index, and its manifest without the digest."""
        return self._index, self._content

    def put_index(self, index: str) -> None:
        """Give it another index, with the digests that go with it."""
        self._restore()
        alter(self._path, index=lambda _: index)

    def put_content(self, content: str) -> None:
        """Give it another manifest, with the digest that goes with it."""
        self._restore()
        write_manifest(self._path, content)

    def _restore(self) -> None:
        # The data files stay; links would be refused only for being links.
        if not self._path.exists():
            shutil.copytree(self._original, self._path)
        for name in ("tensor_index.json", "manifest.json"):
            shutil.copyfile(self._original / name, self._path / name)

    def alter(self, chance: random.Random) -> None:
        """Make another altered copy."""
        kind = chance.randrange(4)
        if kind == 0:
            self.put_index(mutate(self._index, chance))
        elif kind == 1:
            self.put_content(mutate(self._content, chance))
        elif kind == 2:
            self._restore()
            name = chance.choice(("tensor_index.json", "manifest.json"))
            text = (self._original / name).read_text()
            (self._path / name).write_text(mutate(text, chance), errors="surrogatepass")
        else:
            self.put_index(_shuffled(self._index, chance))

    def open(self) -> None:
        """Open it, and check what was opened."""
        with open_checkpoint(self._path) as opened:
            for entry in opened.index.tensors.values():
                partition = opened.partitions[entry.partition]
                assert 0 <= entry.offset <= entry.offset + entry.num_bytes <= partition.num_bytes, entry
                steps = zip(entry.shape, entry.stride, strict=True)
                last = entry.storage_offset + sum((length - 1) * step for length, step in steps)
                fits = (last + 1) * ITEMSIZE[entry.dtype] <= entry.storage_bytes
                assert 0 in entry.shape or fits, entry
            assert opened.index.encode() == (self._path / "tensor_index.json").read_bytes()
            assert opened.manifest.encode() == (self._path / "manifest.json").read_bytes()
        verify(self._path)


def _shuffled(text: str, chance: random.Random) -> str:
    """Put the entries into another order, drop one, or repeat one: sound JSON that contradicts itself."""
    value = json.loads(text)
    entries = list(value["tensors"].items())
    kind = chance.randrange(3)
    if kind == 0:
        chance.shuffle(entries)
    elif kind == 1:
        entries.pop(chance.randrange(len(entries)))
    else:
        name, entry = chance.choice(entries)
        entries.insert(chance.randrange(len(entries) + 1), (name + chance.choice("abz"), entry))
    tensors = {"tensors": dict(entries), "aliases": value["aliases"]}
    return json.dumps(tensors, separators=(",", ":")) + "\n"


class Headers:
    """Alters a safetensors file and opens it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "x.safetensors"
        save_file(
            {
                "a": torch.ones(3),
                "b.c": torch.ones(2, 2, dtype=torch.bfloat16),
                "d": torch.zeros(0),
                "e": torch.tensor(1),
            },
            self._path,
            metadata={"format": "pt"},
        )
        data = self._path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        self._header, self._data = data[8 : 8 + length].decode(), data[8 + length :]

    @property
    def text(self) -> str:
        """Its header."""
        return self._header

    def put(self, header: bytes, length: int | None = None) -> None:
        """Give it another header; the length is the header's own unless another is to be claimed."""
        claimed = len(header) if length is None else max(0, length)
        self._path.write_bytes(claimed.to_bytes(8, "little") + header + self._data)

    def alter(self, chance: random.Random) -> None:
        """Write another altered file."""
        header = mutate(self._header, chance).encode("utf-8", errors="surrogatepass")
        self.put(header, None if chance.randrange(8) else chance.choice((0, 7, len(header) - 1, 1 << 27, 1 << 63)))

    def open(self) -> None:
        """Open it, and check what was opened."""
        with open_safetensors(self._path) as opened:
            position = opened.header_bytes
            for tensor in opened.tensors.values():
                assert position == tensor.begin <= tensor.end
                position = tensor.end
            assert position == opened.file.num_bytes


def outcome_of(open_input: Callable[[], None]) -> str:
    """Open an altered input: how it ended; AssertionError if it took too long or was not what it said."""
    begin = time.process_time()
    try:
        open_input()
        outcome = "opened"
    except LoaderError as error:
        outcome = type(error).__name__
    if (taken := time.process_time() - begin) > _MAX_CPU_S:
        raise AssertionError(f"took {taken:.2f} s")
    return outcome
