"""Opening takes at most a second and 64 MiB for any input: the largest, and the worst that get past the limits."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loaders.format.packing import end_of_segments
from tests.support.checkpoints import write_manifest

_ROOT = Path(__file__).parents[4]
_MAX_GROWTH_MIB = 64
#: The rule is one second on a machine of its own; this one may be shared by a whole test run.
_MAX_CPU_S = 3.0

# In a process of its own: its peak is that of the opening, beyond what it had after the imports.
_PROGRAM = """
import gc, json, sys, time
from pathlib import Path
from loaders.errors import LoaderError
from loaders.format.safetensors_header import open_safetensors
from loaders.format.validate import open_checkpoint

def peak_mib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

def resident_mib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1024

before, begin = resident_mib(), time.process_time()
path = Path(sys.argv[1])
try:
    (open_safetensors if path.is_file() else open_checkpoint)(path).close()
    outcome = "opened"
except LoaderError as error:
    outcome = str(error)[:300]
print(json.dumps({"outcome": outcome, "cpu_s": time.process_time() - begin, "growth_mib": peak_mib() - before}))
"""


def _open_within_quota(path: Path) -> str:
    """Open in a process of its own; return `opened` or the refusal."""
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, path], cwd=_ROOT, check=True, capture_output=True, text=True
    )
    measured = json.loads(result.stdout)
    assert measured["growth_mib"] < _MAX_GROWTH_MIB, measured
    assert measured["cpu_s"] < _MAX_CPU_S, measured
    outcome: str = measured["outcome"]
    return outcome


def _entries(count: int, entry: Callable[[int], str]) -> str:
    return '{"tensors":{' + ",".join(map(entry, range(count))) + '},"aliases":{}}\n'


def _largest() -> str:
    """100,000 tensors with long names, each of a size of its own."""
    return _entries(
        100_000,
        lambda i: (
            f'"model.layers.{i // 1000}.mlp.experts.{i % 1000}.down_proj.weight_scale_inv.{i}":{{"partition":0,'
            f'"offset":{256 * i},"num_bytes":256,"dtype":"uint8","shape":[1,{1 + i % 250}]}}'
        ),
    )


def _all_shapes_different() -> str:
    def entry(i: int) -> str:
        shape = f"{1 + i % 9},{1 + i // 9 % 9},{1 + i // 81 % 9},{1 + i // 729 % 9},{1 + i // 6561 % 9},1,1,2"
        return (
            f'"t{i}":{{"partition":0,"offset":{i << 20},"num_bytes":1048576,"dtype":"bool",'
            f'"shape":[{shape}],"stride":[1,1,1,1,{1 + i % 7},0,0,{i % 99991}]}}'
        )

    return _entries(100_000, entry)


def _more_segments_than_allowed() -> str:
    length, patches, codebook = 65536 << 18, (0,) * 65536, ",".join(map(str, range(16)))
    offsets = [0]
    for _ in range(9):
        offsets.append(end_of_segments(-(-offsets[-1] // 256) * 256, length, patches))
    places = [-(-offset // 256) * 256 for offset in offsets]
    return _entries(
        9,
        lambda i: (
            f'"t{i}":{{"partition":0,"offset":{places[i]},"num_bytes":{offsets[i + 1] - places[i]},"dtype":"bfloat16",'
            f'"shape":[{length}],"layout":"packed","codebook":[{codebook}],"segments":[{",".join("0" * 65536)}]}}'
        ),
    )


def _endless_segments() -> str:
    segments = "1," * 9_000_000
    return (
        '{"tensors":{"t":{"partition":0,"offset":0,"num_bytes":0,"dtype":"bfloat16","shape":[1],"layout":"packed",'
        f'"codebook":[{",".join(map(str, range(16)))}],"segments":[{segments}1]}}}},"aliases":{{}}}}\n'
    )


_INDEXES: dict[str, Callable[[], str]] = {
    "the largest that is allowed": _largest,
    "views that are all different": _all_shapes_different,
    "segments": _more_segments_than_allowed,
    "a list without end": _endless_segments,
    "a name without end": lambda: '{"tensors":{"' + "a" * (20 << 20),
    "a number without end": lambda: '{"tensors":{"a":{"partition":' + "9" * (20 << 20),
    "brackets": lambda: '{"tensors":{"a":{"partition":' + "[" * (20 << 20),
    "empty tensors": lambda: _entries(
        180_000, lambda i: f'"{i}":{{"partition":0,"offset":0,"num_bytes":0,"dtype":"bool","shape":[0]}}'
    ),
    "aliases": lambda: (
        '{"tensors":{"a":{"partition":0,"offset":0,"num_bytes":0,"dtype":"bool","shape":[0]}},"aliases":{'
        + ",".join(f'"b{i:06}":"a"' for i in range(1_000_000))
        + "}}\n"
    ),
}


@pytest.mark.parametrize("name", sorted(_INDEXES))
def test_no_tensor_index_takes_more(tmp_path: Path, name: str) -> None:
    path = tmp_path / "checkpoint"
    path.mkdir()
    data = _INDEXES[name]().encode("ascii")[: 20 << 20]
    (path / "tensor_index.json").write_bytes(data)
    record = f'{{"num_bytes":{len(data)},"sha256":"{hashlib.sha256(data).hexdigest()}"}}'
    partition = '{"num_bytes":0,"tree_sha256":"' + "0" * 64 + '","chunk_digests":[]}'
    write_manifest(
        path,
        f'{{"chunk_bytes":16777216,"files":{{"tensor_index.json":{record}}},"partitions":[{partition}],"dtypes":{{}}}}',
    )
    outcome = _open_within_quota(path)
    # Even the sound ones are refused in the end: their partition is empty.
    assert "tensor_index.json: " in outcome, outcome
    if name == "the largest that is allowed":
        assert "tensors fill" in outcome, outcome
    if name == "segments":
        assert "is behind 524288 segments" in outcome, outcome


_CONTENTS = {
    "digests": lambda: '{"chunk_bytes":16777216,"files":{},"partitions":[' + ",".join(['"0123456789abcdef"'] * 400_000),
    "numbers": lambda: '{"chunk_bytes":[' + ",".join(map(str, range(10**12, 10**12 + 266_000))) + "]}",
    "lists": lambda: '{"chunk_bytes":[' + "[]," * 130_000 + "0]}",
    "objects": lambda: '{"chunk_bytes":[' + '{"a":0},' * 130_000 + "0]}",
    "keys": lambda: "{" + ",".join(f'"{i}":0' for i in range(260_000)) + "}",
    "brackets": lambda: '{"chunk_bytes":' + "[" * 260_000,
    "text": lambda: '{"chunk_bytes":"' + "a" * (7 << 20) + '"}',
    "a number": lambda: '{"chunk_bytes":' + "9" * (7 << 20) + "}",
}


@pytest.mark.parametrize("name", sorted(_CONTENTS))
def test_no_manifest_takes_more(tmp_path: Path, name: str) -> None:
    path = tmp_path / "checkpoint"
    path.mkdir()
    write_manifest(path, _CONTENTS[name]())
    assert "manifest.json" in _open_within_quota(path)


def _header(count: int) -> bytes:
    return ",".join(
        f'"model.layers.{i // 1000}.mlp.experts.{i % 1000}.down_proj.weight_scale_inv_{i}":'
        f'{{"dtype":"BF16","shape":[7168,2048],"data_offsets":[{29360128 * i},{29360128 * (i + 1)}]}}'
        for i in range(count)
    ).encode()


_EMOJI = "\U0001f600".encode()
_HEADERS: dict[str, tuple[Callable[[], bytes], int]] = {
    "the largest that is allowed": (lambda: b"{%s}" % _header(50_000), 29360128 * 50_000),
    "many short tensors": (
        lambda: (
            b"{%s}" % b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(150_000))
        ),
        0,
    ),
    "metadata": (
        lambda: b'{"__metadata__":{%s}}' % b",".join(b'"%d":""' % i for i in range(700_000)),
        0,
    ),
    "metadata of one text": (lambda: b'{"__metadata__":{"a":"' + b"\\u00e4" * 1_700_000 + b'"}}', 0),
    "characters beyond ASCII": (lambda: b'{"%s":{}}' % (_EMOJI * 2_500_000), 0),
    "a few characters beyond ASCII": (lambda: b'{"%s":{}}' % (_EMOJI * 600_000), 0),
    "one character beyond ASCII": (lambda: b'{"%s%s":{}}' % (_EMOJI, b"a" * 10_000_000), 0),
    "brackets": (lambda: b'{"a":{"dtype":' + b"[" * 900_000, 0),
    "lists": (lambda: b'{"a":{"dtype":[' + b"[]," * 400_000 + b"0]}}", 0),
    "blanks": (lambda: b"{" + b" " * 10_000_000 + b"}", 0),
}


@pytest.mark.parametrize("name", sorted(_HEADERS))
def test_no_header_takes_more(tmp_path: Path, name: str) -> None:
    make, num_bytes = _HEADERS[name]
    path = tmp_path / "x.safetensors"
    header = make()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + num_bytes)
    outcome = _open_within_quota(path)
    assert outcome == "opened" or str(path) in outcome
    assert (outcome == "opened") == (name in {"the largest that is allowed", "metadata of one text", "blanks"})


def test_four_gigabytes_of_json_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 4 << 30) + b"{")
        file.truncate(8 + (4 << 30))
    assert "header of 4294967296 bytes, expected at most 100000000" in _open_within_quota(path)
