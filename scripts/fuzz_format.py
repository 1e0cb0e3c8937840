"""Feed altered checkpoints and safetensors headers to their readers for some minutes; run by hand.

What must hold for every input: it is opened or refused with a LoaderError, within a second of processor time; the
process does not grow by more than 64 MiB; what is opened lies within its files, and is written back as it was read.
Most checkpoints are altered behind the digests, so that they get to the parsers.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
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
_MAX_GROWTH_MIB = 64

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


def _mutate(text: str, chance: random.Random) -> str:
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


class _Checkpoints:
    """Alters a checkpoint and opens it."""

    def __init__(self, folder: Path) -> None:
        self._original, self._path = folder / "original", folder / "altered"
        weights = (torch.randn(300_000, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)
        convert(small_state_dict() | {"model.layers.2.packed": weights}, self._original, pack=True, num_partitions=2)
        self._index = (self._original / "tensor_index.json").read_text()
        self._content = content_of(self._original)

    def alter(self, chance: random.Random) -> None:
        """Make another altered copy; the data files are the same, as links would be refused only for that."""
        if not self._path.exists():
            shutil.copytree(self._original, self._path)
        for name in ("tensor_index.json", "manifest.json"):
            shutil.copyfile(self._original / name, self._path / name)
        kind = chance.randrange(4)
        if kind == 0:
            alter(self._path, index=lambda text: _mutate(text, chance))
        elif kind == 1:
            write_manifest(self._path, _mutate(self._content, chance))
        elif kind == 2:
            name = chance.choice(("tensor_index.json", "manifest.json"))
            text = (self._original / name).read_text()
            (self._path / name).write_text(_mutate(text, chance), errors="surrogatepass")
        else:
            alter(self._path, index=lambda text: _shuffled(text, chance))

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


class _Headers:
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

    def alter(self, chance: random.Random) -> None:
        """Write another altered file."""
        header = _mutate(self._header, chance).encode("utf-8", errors="surrogatepass")
        length = len(header) if chance.randrange(8) else chance.choice((0, 7, len(header) - 1, 1 << 27, 1 << 63))
        self._path.write_bytes(max(0, length).to_bytes(8, "little") + header + self._data)

    def open(self) -> None:
        """Open it, and check what was opened."""
        with open_safetensors(self._path) as opened:
            position = opened.header_bytes
            for tensor in opened.tensors.values():
                assert position == tensor.begin <= tensor.end
                position = tensor.end
            assert position == opened.file.num_bytes


def _resident_mib() -> float:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * 4096 / (1 << 20)


def _run(alter_input: Callable[[random.Random], None], open_input: Callable[[], None], chance: random.Random) -> str:
    alter_input(chance)
    begin = time.process_time()
    try:
        open_input()
        outcome = "opened"
    except LoaderError as error:
        outcome = type(error).__name__
    if (taken := time.process_time() - begin) > _MAX_CPU_S:
        raise AssertionError(f"took {taken:.2f} s")
    return outcome


def main() -> int:
    """Run until the time is over; stop at the first input for which something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        targets = [_Checkpoints(Path(name)), _Headers(Path(name))]
        end, number, resident = time.monotonic() + 60 * options.minutes, 0, 0.0
        while time.monotonic() < end:
            chance = random.Random(f"{options.seed} {number}")
            target = targets[number % 2]
            try:
                outcomes[f"{type(target).__name__[1:]}: {_run(target.alter, target.open, chance)}"] += 1
                resident = resident or _resident_mib()
                assert _resident_mib() - resident < _MAX_GROWTH_MIB, "memory grows"
            except Exception:
                print(f"seed {options.seed}, input {number}", file=sys.stderr)
                raise
            number += 1
    print(f"seed {options.seed}: {number} inputs in {options.minutes:g} minutes")
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>9}  {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
